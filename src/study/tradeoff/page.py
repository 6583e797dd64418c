"""The front between two tasks as one HTML page, with the evaluated models beside it, and the table of weightings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section, Table, document
from src.pages.figures import axis, escape, figure, var
from src.runtime import files
from src.study.tradeoff.front import Front, Point
from src.study.tradeoff.text import columns, rows

WORDS = (
    "A row is the recipe of which most is expected where tasks count as its first column says, by what all evaluated "
    "models answered; none of them but the first was made. ± is the 95 % interval of the prediction."
)


def write(front: Front, points: Sequence[Point], pair: tuple[str, str], between: Sequence[Point], path: Path) -> None:
    """Write the page, beside its place first.

    Args:
        front: the run.
        points: of all weightings.
        pair: two tasks.
        between: the front between them.
        path: of the page.
    """
    drawn = Drawing("front", f"{pair[0]} against {pair[1]}", draw(front, pair, between))
    words = (
        "Diamonds are predicted, with 95 % intervals: the weight of the two tasks goes from the one to the other, and "
        "all others together count as much as the two. Circles are the models that were evaluated, founders filled."
    )
    sections = [
        Section("between", "Between two tasks", [words], [[drawn]], [_table(front, between)], wide=True),
        Section("weightings", "Any weighting of the tasks", [WORDS], tables=[_table(front, points)]),
    ]
    title = f"{front.name}: trade-offs"
    files.write_text(path, document(title, sections if points else sections[:1], heading=title))


def _table(front: Front, points: Sequence[Point]) -> Table:
    return Table(columns(front), rows(front, points), marked=frozenset({0}))


def draw(front: Front, pair: tuple[str, str], between: Sequence[Point]) -> Figure:
    """Return the figure: predicted points joined by a line, evaluated models as points."""
    first, second = pair
    traces = []
    for founder, name in ((True, "founders"), (False, "evaluated merges")):
        models = [one for one in front.state.population.eligible() if one.founder == founder]
        models = [one for one in models if {*pair} <= {*one.scores}]
        traces.append(
            Scatter(
                name=name,
                mode="markers",
                x=[one.scores[first] for one in models],
                y=[one.scores[second] for one in models],
                text=[escape(one.name) for one in models],
                hoverinfo="text+x+y",
                marker={"symbol": "circle" if founder else "circle-open", "size": 9, "color": var("blue")},
            )
        )
    x, y = ([point.tasks[task] for point in between] for task in pair)
    traces.append(
        Scatter(
            name="predicted",
            mode="lines+markers",
            x=[one.value for one in x],
            y=[one.value for one in y],
            error_x={"array": [one.high - one.value for one in x], "thickness": 1, "width": 3},
            error_y={"array": [one.high - one.value for one in y], "thickness": 1, "width": 3},
            text=[f"{escape(first)} : {escape(second)} = {point.label}" for point in between],
            hoverinfo="text+x+y",
            marker={"symbol": "diamond", "size": 10, "color": var("orange")},
            line={"color": var("orange"), "width": 1.5},
        )
    )
    return figure(traces, 480, xaxis=axis(f"{escape(first)}, points"), yaxis=axis(f"{escape(second)}, points"))
