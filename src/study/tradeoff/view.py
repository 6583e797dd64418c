"""A front for a terminal, as a page with the evaluated models beside it, and a recipe's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import rich.table
from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section, document
from src.pages.figures import axis, escape, figure, var
from src.pages.tables import Table
from src.pages.text import number
from src.population import Prediction
from src.runtime import files
from src.study.tradeoff.front import Front, Point

WIDTH = 160
"""Columns of text where the output goes to a file."""
WORDS = (
    "A row is the recipe of which most is expected where tasks count as its first column says, by what all evaluated "
    "models answered; none of them but the first was made. ± is the 95 % interval of the prediction."
)
BETWEEN = (
    "Diamonds are predicted, with 95 % intervals: the weight of the two tasks goes from the one to the other, and all "
    "others together count as much as the two. Circles are the models that were evaluated, founders filled."
)


def table(front: Front, points: Sequence[Point]) -> Table:
    """Return a row a point, what was found of the evaluated winner first; ± is 95 %.

    The headings are the tasks, without the beginning that all of them share.
    """
    shared = {task.partition("_")[0] for task in front.tasks}
    short = len(shared) == 1 and len(front.tasks) > 1 and all("_" in task for task in front.tasks)
    tasks = [task.partition("_")[2] if short else task for task in front.tasks]
    winner = front.winner
    known = [winner.average, min(winner.scores.values()), *(winner.scores[task] for task in front.tasks)]
    rows = [[f"found: {winner.name}", *(number(one, ".1f") for one in known)]]
    rows += [[one.label, *map(_cell, (one.average, one.worst, *one.tasks.values()))] for one in points]
    return Table(["weights", "average", "worst", *tasks], rows, marked=frozenset({0}))


def _cell(one: Prediction) -> str:
    return f"{number(one.value, '.1f')}±{number((one.high - one.low) / 2, '.1f')}"


def recipe(front: Front, point: Point) -> Table:
    """Return a point's recipe: a row a direction, a column a block."""
    directions = zip(front.problem.directions, point.recipe.tolist(), strict=True)
    rows = [[name, *(number(weight, "+.3f") for weight in weights)] for name, weights in directions]
    return Table(["direction", *front.problem.blocks.names], rows)


def printed(shown: Table, title: str) -> rich.table.Table:
    """Return a table for a terminal."""
    return shown.printed(title, folded=range(1, len(shown.columns)))


def write(front: Front, points: Sequence[Point], pair: tuple[str, str], between: Sequence[Point], path: Path) -> None:
    """Write the page, beside its place first.

    Args:
        front: the run.
        points: of all weightings; without any they have no section.
        pair: two tasks.
        between: the front between them.
        path: of the page.
    """
    drawn = Drawing("front", f"{pair[0]} against {pair[1]}", _draw(front, pair, between))
    sections = [Section("between", "Between two tasks", [BETWEEN], [[drawn]], [table(front, between)], wide=True)]
    if points:
        all_of_them = table(front, points)
        sections.append(Section("weightings", "Any weighting of the tasks", [WORDS], tables=[all_of_them]))
    title = f"{front.name}: trade-offs"
    files.write_text(path, document(title, sections, heading=title))


def _draw(front: Front, pair: tuple[str, str], between: Sequence[Point]) -> Figure:
    """Draw predicted points, joined by a line, and evaluated models."""
    first, second = pair
    known = [one for one in front.state.population.eligible() if {*pair} <= {*one.scores}]
    traces = []
    for name, symbol, models in (
        ("founders", "circle", [one for one in known if one.founder]),
        ("evaluated merges", "circle-open", [one for one in known if not one.founder]),
    ):
        x, y = ([one.scores[task] for one in models] for task in pair)
        trace = Scatter(name=name, mode="markers", x=x, y=y, text=[escape(one.name) for one in models])
        traces.append(trace.update(marker={"symbol": symbol, "size": 9, "color": var("blue")}))
    expected = [[point.tasks[task].value for point in between] for task in pair]
    halves = [[point.tasks[task].high - point.tasks[task].value for point in between] for task in pair]
    predicted = Scatter(name="predicted", mode="lines+markers", x=expected[0], y=expected[1])
    predicted.update(error_x={"array": halves[0], "thickness": 1, "width": 3})
    predicted.update(error_y={"array": halves[1], "thickness": 1, "width": 3})
    predicted.update(text=[f"{escape(first)} : {escape(second)} = {point.label}" for point in between])
    predicted.update(marker={"symbol": "diamond", "size": 10, "color": var("orange")})
    predicted.update(line={"color": var("orange"), "width": 1.5})
    across, up = axis(f"{escape(first)}, points"), axis(f"{escape(second)}, points")
    return figure([*traces, predicted], 480, xaxis=across, yaxis=up).update_traces(hoverinfo="text+x+y")
