"""How a run ended, in words: what was evolved, the winner, its gain, the number to quote, and what to beware of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from src.evaluation import benchmarks
from src.pages import text
from src.pages.document import Tile
from src.pages.tables import Table
from src.pages.text import duration, interval, p_value, plural
from src.population import normalised_average, worst
from src.report.run_data import RunData
from src.statistics import compare_models
from src.tracking import summary
from src.tracking.table import cells, rows

CHANCE = 0.05
"""The p above which chance alone could do it, whatever the interval says: the two are of different tests."""
SKILLS = 12
"""Skills that the first words name one by one."""


@dataclass(frozen=True)
class Gain:
    """The winner's gain on the best founder, in points: on the holdout where there is one, else where it steered."""

    founder: str
    points: float
    low: float
    high: float
    p: float
    held_out: bool = False
    """Whether nothing was chosen on these samples."""
    paired: bool = True
    """Whether the interval is from the same samples; otherwise from the two standard errors."""

    @property
    def words(self) -> str:
        """The gain with its interval and p."""
        return text.gain(self.points, self.low, self.high, self.p)


def gain(run: RunData) -> Gain | None:
    """Return the winner's gain on the best founder; None where a founder won."""
    if run.winner.founder or not run.founders:
        return None
    for side in reversed(summary.sides(run.state)):
        if (known := side.compared) is not None:
            interval = known.difference, known.low, known.high, known.p
            return Gain(known.founder, *interval, held_out=side.name == "holdout")
    best = run.founders[0]
    mine, theirs = (run.samples.get(model.name) for model in (run.winner, best))
    if mine and theirs and set(mine) == set(theirs):
        found = compare_models(mine, theirs, weights=run.weights)
        return Gain(best.name, found.difference, found.low, found.high, found.p)
    points = (run.winner.average or 0.0) - (best.average or 0.0)
    error = math.hypot(run.winner.stderr or 0.0, best.stderr or 0.0)
    half = summary.NORMAL * error
    p = math.erfc(abs(points) / error / math.sqrt(2)) if error else float(not points)
    return Gain(best.name, points, points - half, points + half, p, paired=False)


def tiles(run: RunData) -> list[Tile]:
    """Return the run's main numbers."""
    winner, merges = run.winner, [model for model in run.population if model.parents]
    found, held_out = gain(run), summary.quoted(run.state)
    shown = [Tile("winner", winner.name, " × ".join(winner.parents) or "a founder")]
    if held_out:
        shown.append(Tile("on the holdout: quote this", f"{held_out.average:.2f}", _bounds(held_out)))
    if found:
        title = f"gain on the best founder{' there' if found.held_out else ''}"
        note = f"95 %: {interval(found.low, found.high)}, {p_value(found.p)}, on {found.founder}"
        shown.append(Tile(title, f"{found.points:+.2f}", note))
    else:
        shown.append(Tile("gain on the best founder", "none", "no merge beats it"))
    side, kept = summary.skills_kept(run.state)
    if kept and not winner.founder:
        low = worst(kept)
        note = f"of the specialists' scores, {side}; worst {low.task}: {low.score:.2f}"
        shown.append(Tile("skills kept", f"{normalised_average(kept):.0f} %", note))
    error = f"± {summary.NORMAL * (winner.stderr or 0.0):.2f} (95 %)"
    shown.append(Tile("on what steered the search", f"{winner.average:.2f}", error))
    explorations = sum(model.exploration for model in merges)
    made = f"{plural(len(merges), 'merge')}{f' ({explorations} explorations)' if explorations else ''} and the founders"
    generations, work = plural(run.population.generation, "generation"), duration(sum(run.state.seconds.values()))
    cost = f"of {made} in {generations}; {work} of work"
    return [*shown, Tile("evaluations it cost", str(run.state.evaluations), cost)]


def words(run: RunData) -> list[str]:
    """Return a paragraph on the run, and one on its winner."""
    strategy, merge = run.settings["strategy"]["name"], run.settings["merge"]["method"]
    base = run.state.sources.get("base", "the base")
    ended = f"It ended: {run.state.stopped}." if run.state.stopped else "It has not ended yet."
    return [
        f"{len(run.founders)} fine-tunes of {base} were evolved by {strategy}, merging with {merge} and going by "
        f"{run.metric.name}. {ended}",
        _quote(run),
        *_skills(run),
    ]


def _skills(run: RunData) -> list[str]:
    """Return what a merged winner keeps of each skill, the least first."""
    side, kept = summary.skills_kept(run.state)
    if not kept or run.winner.founder:
        return []
    ranked = sorted(kept, key=lambda one: one.kept)
    shown = ranked if len(ranked) <= SKILLS else [*ranked[: SKILLS - 1], ranked[-1]]
    named = [f"{one.task} {one.kept:.0%}" for one in shown]
    if len(shown) < len(ranked):
        named.insert(-1, f"{len(ranked) - len(shown)} more")
    return [f"Of the best founder's score at each task it keeps ({side}): {', '.join(named)}."]


def _quote(run: RunData) -> str:
    if not run.offspring:
        return "No offspring has been scored yet."
    if run.winner.founder:
        return f"The best model is the founder {run.winner.name}: none of the merges beats it."
    steered = (
        f"{run.winner.average:.2f} on what steered the search was the best of {len(run.population)}, and such a "
        "figure is too high on average"
    )
    held_out, found = summary.quoted(run.state), gain(run)
    if held_out is None:
        return f"Quote another score: {steered}. evaluate.holdout=0.5 keeps half of the samples for the end."
    gained = f", {found.words} on {found.founder}, the best founder there" if found and found.held_out else ""
    return (
        f"The number to quote is {run.winner.name}'s {held_out.average:.2f} on the holdout "
        f"({_bounds(held_out)}){gained}. {steered}."
    )


def _bounds(side: summary.Side) -> str:
    return f"95 %: {side.low:.2f} to {side.high:.2f}"


def warnings(run: RunData) -> list[str]:
    """Return what a reader should know before trusting the figures."""
    found = gain(run)
    texts = [warning] if (warning := benchmarks.warning(run.settings["evaluate"])) else []
    if found and (found.low <= 0 or found.p > CHANCE):
        side = "on the holdout" if found.held_out else "on what steered the search"
        texts.append(f"The gain on {found.founder} {side} is within chance: {found.words}.")
    if found and not found.paired:
        texts.append("The scores of single samples are not beside the journal: intervals are wider than they need be.")
    if lost := summary.lost(run.state):
        texts.append(f"The winner keeps less than half of {lost}.")
    failed = [model for model in run.population if model.failure is not None]
    if failed:
        names = ", ".join(model.name for model in failed[:5]) + (" and more" if len(failed) > 5 else "")
        texts.append(f"{plural(len(failed), 'model')} failed and left out: {names}. The first: {failed[0].failure}")
    if run.grams is None:
        texts.append("kinship.npz is not beside the journal: what needs single layers or shares is left out.")
    return [*texts, *run.unreadable]


def models(run: RunData) -> Table:
    """Return the models that are shown, oldest first, with the winner's lineage marked."""
    lines = list(map(cells, run.shown, rows(run.population, run.kinship, run.shown)))
    marked = frozenset(i for i, model in enumerate(run.shown) if model.name in run.line)
    columns = ("model", "parents", "average", "± (se)", "gain", f"{run.metric.name} of the parents")
    return Table(columns, lines, marked, words=frozenset({0, 1}))
