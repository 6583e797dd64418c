"""Where the time went, and which evaluations did not have to be made."""

from __future__ import annotations

from statistics import fmean

from plotly.graph_objects import Bar, Figure

from src.pages.document import Drawing, Section
from src.pages.figures import axis, bars, figure, var
from src.pages.text import duration, plural
from src.report.run_data import HOLDOUT, RunData

PARTS = {
    "merged": ("merging", "green"),
    "measured": ("measuring", "purple"),
    "learned": ("learning", "sky"),
    "evaluated": ("evaluating", "blue"),
    "waiting": ("waiting and the rest", "grey"),
}
"""Names and colours of the parts of `RunData.seconds`."""


def section(run: RunData) -> Section:
    """Return seconds by generation, and evaluations made, known and avoided."""
    known = sum(bool(event.get("cached")) for event in run.evaluations)
    ahead = len(run.strategy.propose(run.population, run.kinship)) if run.state.stopped else 0
    counts = {
        "made": len(run.evaluations) - known,
        "known from other runs": known,
        "avoided by stopping, at least": ahead,
    }
    evaluations = bars(counts, list(map(str, counts.values())), "evaluations", ("blue", "green", "sky"), 340)
    panels = [
        [Drawing("time", "time by generation", _time(run))],
        [Drawing("evaluations", "evaluations", evaluations)],
    ]
    return Section("costs", "Where the time went", [_time_in_words(run), *_savings(run, known, ahead)], panels)


def _time_in_words(run: RunData) -> str:
    totals = {part: sum(spent.get(part, 0.0) for spent in run.seconds.values()) for part in PARTS}
    whole = sum(totals.values()) or 1.0
    words = ", ".join(
        f"{name} {duration(totals[part])} ({totals[part] / whole:.0%})"
        for part, (name, _) in PARTS.items()
        if part != "waiting" and (totals[part] or part != "learned")  # few runs learn
    )
    if any("waiting" in spent for spent in run.seconds.values()):
        words += f", waiting and the rest (loading, hashing, writing) {duration(totals['waiting'])}"
    return f"{words[:1].upper()}{words[1:]}."


def _savings(run: RunData, known: int, ahead: int) -> list[str]:
    """Tell what evaluations known from other runs, and the end of this one before the merges `ahead`, have saved."""
    paid = [event["seconds"] for event in run.evaluations if not event.get("cached")]
    words = []
    if known:
        worth = f", worth about {duration(known * fmean(paid))}" if paid else ""
        words.append(f"Of {plural(len(run.evaluations), 'evaluation')}, {known} came from other runs{worth}.")
    if ahead:
        worth = f" (about {duration(ahead * fmean(paid))} of evaluating)" if paid else ""
        budget = run.settings["stop"]["generations"] or 0
        most = max(0, budget - run.population.generation) * run.strategy.most_proposals(len(run.population))
        up_to = f", and up to {most} until the budget of generations is spent" if most > ahead else ""
        words.append(f"Stopping saved at least {plural(ahead, 'merge')}, the next generation's{worth}{up_to}.")
    return words


def _time(run: RunData) -> Figure:
    names = {0: "founders", HOLDOUT: "holdout"}
    rows = sorted(run.seconds.items(), key=lambda row: (row[0] == HOLDOUT, row[0]))  # a longer run goes on after it
    x = [names.get(generation, str(generation)) for generation, _ in rows]
    traces = []
    for part, (name, colour) in PARTS.items():
        y = [spent.get(part, 0.0) for _, spent in rows]
        if any(y):
            about = f"%{{x}}: %{{y:.1f}} s {name}<extra></extra>"
            traces.append(Bar(name=name, x=x, y=y, hovertemplate=about, marker_color=var(colour)))
    return figure(traces, xaxis=axis("generation", type="category"), yaxis=axis("seconds"), bargap=0.35)
