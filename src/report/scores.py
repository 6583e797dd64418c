"""What the winner can do, task by task, beside its founders; and what share of each founder is in it."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import stdev
from typing import Any

from src.kinship import shares
from src.pages.look import (
    HUES,
    Drawing,
    Figure,
    Section,
    Table,
    axis,
    chance,
    figure,
    rounded,
    safe,
    span,
    var,
    worded,
)
from src.population import Model
from src.report.ascent import SIGMAS
from src.report.story import Story
from src.statistics import compare_models, holm
from src.statistics.average import Samples

SYMBOLS = ("circle", "square", "triangle-up", "cross", "triangle-down")
"""Of founders: colour alone does not tell them apart to every eye."""
FEW = len(HUES)
"""Founders up to which each has a colour of its own."""


def section(story: Story) -> Section:
    """Scores by task, the winner against every founder on the same samples, and its descent in shares."""
    held = story.state.holdout.get(story.winner.name)
    tasks = list(dict.fromkeys([*story.winner.scores, *(held.scores if held else ())]))
    height = 130 + 30 * len(tasks)
    panels = [[Drawing("scores", "score by task", _dots(story, tasks, max(height, 320)))]]
    words = ["Bars at the winner are 95 % intervals of single tasks."] if _known(story) else []
    if not story.winner.founder and story.grams is not None and _measured(story):
        panels.append([Drawing("shares", "founders within the winner", _shares(story, max(height, 320)))])
        words.append(
            "A founder's share is its weight in the combination of the founders' changes that comes closest to the "
            "winner's; the shares need not add up to 100 %."
        )
    tables = [_comparison(story)] if _known(story) and not story.winner.founder else []
    if tables:
        words.append(
            "The table compares the winner with each founder on the very same samples: bootstrap within tasks, p of "
            "the sign-flip test, adjusted after Holm. These samples chose the winner, so the gains lean to its side."
        )
    return Section("scores", "What the winner can do", words, panels, tables)


def _known(story: Story) -> bool:
    return story.winner.name in story.samples


def _measured(story: Story) -> bool:
    assert story.grams is not None
    wanted = {story.winner.name, *(model.name for model in story.founders)}
    return wanted <= set(story.grams.names)


def _dots(story: Story, tasks: list[str], height: int) -> Figure:
    labels = [safe(task) for task in tasks]
    many = len(story.founders) > FEW
    data: list[dict[str, Any]] = []
    for number, model in enumerate(story.founders):
        if model.name != story.winner.name:
            colour = var("grey" if many else HUES[number])
            data.append(
                _row(model, tasks, labels, colour, SYMBOLS[number % FEW], 9) | {"opacity": 0.6 if many else 0.9}
            )
    winner = _row(story.winner, tasks, labels, var("orange"), "diamond", 14)
    if _known(story):
        spread = [errors(story.samples[story.winner.name]).get(task) for task in tasks]
        winner["error_x"] = {"type": "data", "array": spread, "thickness": 1.5, "width": 0, "color": var("orange")}
    data.append(winner)
    if (held := story.state.holdout.get(story.winner.name)) is not None:
        model = replace(story.winner, name="holdout", scores=held.scores)
        data.append(_row(model, tasks, labels, var("ink"), "diamond-open", 13))
    return figure(
        data,
        height=height,
        xaxis=axis("score, points", range=[-2, 102] if _percent(story) else None),
        yaxis={"type": "category", "autorange": "reversed", "showgrid": True},
    )


def _percent(story: Story) -> bool:
    return all(0 <= score <= 100 for model in story.population.eligible() for score in model.scores.values())


def _row(model: Model, tasks: list[str], labels: list[str], colour: str, symbol: str, size: int) -> dict[str, Any]:
    scores = [model.scores.get(task) for task in tasks]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": safe(model.name),
        "x": [rounded(score, 2) for score in scores],
        "y": labels,
        "text": [f"{safe(model.name)}, {label}: {score or 0:.1f}" for label, score in zip(labels, scores, strict=True)],
        "hoverinfo": "text",
        "marker": {"symbol": symbol, "size": size, "color": colour, "line": {"color": var("card"), "width": 1}},
    }


def errors(samples: Samples) -> dict[str, float]:
    """Half the 95 % interval of each task's score, in points."""
    return {
        task: round(SIGMAS * 100 * stdev(scored.values()) / math.sqrt(len(scored)), 2)
        for task, scored in samples.items()
        if len(scored) > 1
    }


def _shares(story: Story, height: int) -> Figure:
    assert story.grams is not None
    found = shares(story.grams, story.winner.name, [model.name for model in story.founders])
    found = dict(sorted(found.items(), key=lambda item: item[1], reverse=True))
    many, most = len(found) > FEW, max(found.values())
    hue = {model.name: HUES[number % FEW] for number, model in enumerate(story.founders)}
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [safe(name) for name in found],
        "x": [rounded(100 * share, 1) for share in found.values()],
        "text": [worded(share, ".0%") for share in found.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "y+text",
        "marker": {"color": var("blue") if many else [var(hue[name]) for name in found]},
        "width": 0.6,
    }
    return figure(
        [bars],
        height=height,
        xaxis=axis("share of the founder's change, %", range=[100 * min(0, *found.values()) - 8, 115 * most]),
        yaxis={"type": "category", "autorange": "reversed"},
    )


def _comparison(story: Story) -> Table:
    mine = story.samples[story.winner.name]
    against = [m for m in story.founders if m.name in story.samples and set(story.samples[m.name]) == set(mine)]
    found = [compare_models(mine, story.samples[model.name], weights=story.weights) for model in against]
    adjusted = holm([one.p for one in found])
    rows = [
        (
            f"{story.winner.name} − {model.name}",
            f"{one.difference:+.2f}",
            span(one.low, one.high),
            chance(p).removeprefix("p "),
            str(one.n),
        )
        for model, one, p in zip(against, found, adjusted, strict=True)
    ]
    return Table(("winner against", "points", "95 % interval", "p", "samples"), rows)
