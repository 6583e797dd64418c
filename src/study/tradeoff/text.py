"""A front for a terminal: a row a weighting, and a recipe's weights by direction and block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from src.pages.text import number
from src.population import Prediction
from src.study.tradeoff.front import Front, Point

WIDTH = 160
"""Columns of text where the output goes to a file."""
FOUND = "found"
"""What the row of the evaluated winner is called."""


def columns(front: Front) -> list[str]:
    """Return the headings of a front: the tasks without the beginning that all of them share."""
    shared = {task.partition("_")[0] for task in front.tasks}
    short = len(shared) == 1 and len(front.tasks) > 1 and all("_" in task for task in front.tasks)
    tasks = [task.partition("_")[2] if short else task for task in front.tasks]
    return ["weights", "average", "worst", *tasks]


def rows(front: Front, points: Sequence[Point], spec: str = ".1f") -> list[list[str]]:
    """Return the rows of a front as texts, what was found of the evaluated winner first; ± is 95 %."""
    winner = front.winner
    known = [winner.average, min(winner.scores.values()), *(winner.scores[task] for task in front.tasks)]
    found = [[f"{FOUND}: {winner.name}", *(number(one, spec) for one in known)]]
    for point in points:
        predicted = (point.average, point.worst, *point.tasks.values())
        found.append([point.label, *(_cell(one, spec) for one in predicted)])
    return found


def _cell(one: Prediction, spec: str) -> str:
    return f"{number(one.value, spec)}±{number((one.high - one.low) / 2, spec)}"


def table(front: Front, points: Sequence[Point], title: str) -> Table:
    """Return a front as a table."""
    return _table(title, columns(front), rows(front, points))


def recipe(front: Front, point: Point) -> Table:
    """Return a point's recipe as a table: a row a direction, a column a block."""
    directions = zip(front.problem.directions, point.recipe.tolist(), strict=True)
    found = [[name, *(number(weight, "+.3f") for weight in weights)] for name, weights in directions]
    return _table(f"recipe of {point.label}", ["direction", *front.problem.blocks.names], found)


def group(parts: Iterable[Any]) -> Group:
    """Return parts one below the other; texts among them are shown as they are."""
    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _table(title: str, headings: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        shown.add_column(Text(heading), justify="right" if place else "left", overflow="fold", no_wrap=not place)
    for row in body:
        shown.add_row(*map(Text, row))
    return shown
