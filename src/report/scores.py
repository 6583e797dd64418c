"""What the winner can do, task by task, compared with its founders; and what share of each founder is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import stdev

from plotly.graph_objects import Figure, Scatter

from src.kinship import shares
from src.pages.document import Drawing, Section
from src.pages.figures import HUES, axis, bars, escape, figure, marks
from src.pages.tables import Table
from src.pages.text import interval, number, p_value
from src.population import Skill, normalised_average
from src.report.run_data import RunData
from src.statistics import compare_models, holm
from src.tracking.summary import NORMAL, skills_kept

SYMBOLS = ("circle", "square", "triangle-up", "cross", "triangle-down")
"""Of founders: not every reader can tell them apart by colour."""
FEW = len(HUES)
"""Founders up to which each has a colour of its own."""


def section(run: RunData) -> Section:
    """Return scores by task, the winner's shares of its founders, and a comparison with each on the same samples."""
    held_out = run.state.holdout.get(run.winner.name)
    tasks = list(dict.fromkeys([*run.winner.scores, *(held_out.scores if held_out else ())]))
    height = max(130 + 34 * len(tasks), 320)
    panels, tables, words = [[Drawing("scores", "score by task", _scores(run, tasks, height))]], [], []
    sampled, merged = run.winner.name in run.samples, not run.winner.founder
    if sampled:
        words.append("Bars at the winner are 95 % intervals of single tasks.")
    names = [model.name for model in run.founders]
    if merged and run.grams is not None and {run.winner.name, *names} <= set(run.grams.names):
        found = shares(run.grams, run.winner.name, names)
        panels.append([Drawing("shares", "founders within the winner", _shares(found, height))])
        words.append(
            "A founder's share is its weight in the combination of the founders' changes that comes closest to the "
            "winner's; the shares need not add up to 100 %."
        )
    side, kept = skills_kept(run.state)
    if kept and merged:
        tables.append(_skills(kept))
        words.append(
            f"The first table holds the winner against the founder that is best at a task, on the {side}: "
            f"{normalised_average(kept):.0f} % of their scores are kept in the mean over tasks."
        )
    if sampled and merged:
        table, drawn = _comparison(run)
        tables.append(table)
        words.append(
            "The last table compares the winner with each founder on the very same samples: bootstrap within tasks, p "
            f"of the sign-flip test, adjusted after Holm.{drawn} These samples chose the winner, so the gains lean to "
            "its side."
        )
    return Section("scores", "What the winner can do", words, panels, tables)


def _skills(kept: list[Skill]) -> Table:
    rows = [
        [one.task, one.specialist, number(one.best, ".2f"), number(one.score, ".2f"), f"{one.kept:.0%}"] for one in kept
    ]
    columns = ("task", "best founder at it", "its score", "winner", "kept")
    return Table(columns, rows, frozenset(i for i, one in enumerate(kept) if one.kept < 0.5), words=frozenset({0, 1}))


def _scores(run: RunData, tasks: list[str], height: int) -> Figure:
    many = len(run.founders) > FEW
    traces: list[Scatter] = []
    for place, model in enumerate(run.founders):
        if model.name != run.winner.name:
            colour, symbol = ("grey", SYMBOLS[0]) if many else (HUES[place], SYMBOLS[place])
            trace = _row(model.name, model.scores, tasks, color=colour, symbol=symbol, size=9)
            if many:  # the pointer tells which is which
                trace.update(name="founders", legendgroup="founders", showlegend=not traces)
            traces.append(trace.update(opacity=0.6 if many else 0.9))
    winner = _row(run.winner.name, run.winner.scores, tasks, color="orange", symbol="diamond", size=14)
    samples = run.samples.get(run.winner.name, {})
    if samples:
        scored = [list(samples.get(task, {}).values()) for task in tasks]
        halves = [NORMAL * 100 * stdev(one) / math.sqrt(len(one)) if len(one) > 1 else 0.0 for one in scored]
        winner.update(error_x={"array": halves, "thickness": 1.5, "width": 4})
    traces.append(winner)
    if (held_out := run.state.holdout.get(run.winner.name)) is not None:
        traces.append(_row("holdout", held_out.scores, tasks, color="ink", symbol="diamond-open", size=13))
    percent = all(0 <= score <= 100 for model in run.population.eligible() for score in model.scores.values())
    across = axis("score, points", range=[-2, 102] if percent else None)
    down = {"type": "category", "range": [len(tasks) - 0.5, -0.5], "showgrid": True}
    shown = figure(traces, height, xaxis=across, yaxis=down)
    if not many:  # a little below each other: equal scores do not hide each other
        shown.update_traces(orientation="h").update_layout(scattermode="group", scattergap=0.45)
    return shown


def _row(name: str, scores: Mapping[str, float], tasks: list[str], **marker: object) -> Scatter:
    told = [f"{escape(name)}, {escape(task)}: {scores.get(task, 0.0):.1f}" for task in tasks]
    drawn = marks(escape(name), [scores.get(task) for task in tasks], list(map(escape, tasks)), told, **marker)
    return drawn.update(offsetgroup=name)


def _shares(found: dict[str, float], height: int) -> Figure:
    """Draw the share of each founder, largest first; the founders come best first, in the order of their colours."""
    colours = {name: HUES[i] if len(found) <= FEW else "blue" for i, name in enumerate(found)}
    percent = {name: 100 * share for name, share in sorted(found.items(), key=lambda item: -item[1])}
    texts = [f"{number(share, '.0f')}%" for share in percent.values()]
    return bars(percent, texts, "share, %", [colours[name] for name in percent], height)


def _comparison(run: RunData) -> tuple[Table, str]:
    """Return the comparison with each founder, and in words how much was drawn for it."""
    mine = run.samples[run.winner.name]
    against = [model.name for model in run.founders if set(run.samples.get(model.name, ())) == set(mine)]
    found = [compare_models(mine, run.samples[name], weights=run.weights) for name in against]
    rows = [
        (
            f"{run.winner.name} − {name}",
            f"{one.difference:+.2f}",
            interval(one.low, one.high),
            p_value(p).removeprefix("p "),
            str(one.n),
        )
        for name, one, p in zip(against, found, holm([one.p for one in found]), strict=True)
    ]
    drawn = (
        f" Of {min(one.resamples for one in found):,} resamples: another seed would move a bound by "
        f"{max(one.error for one in found):.2f}."
        if found
        else ""
    )
    return Table(("winner against", "points", "95 % interval", "p", "samples"), rows), drawn
