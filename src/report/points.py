"""Models as points of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plotly.graph_objects import Scatter

from src.pages.figures import escape, marks, thin_out
from src.population import Model
from src.report.run_data import RunData

MAX_POINTS = 1000
"""Models up to which each is a point in figures of all; of more, so many evenly spaced over the run."""
KINDS = {
    "founders": ("square", "grey"),
    "offspring": ("circle", "blue"),
    "explorations": ("diamond", "orange"),
    "failed": ("x", "grey"),
}
"""Symbols and colours."""


def kind_of(model: Model) -> str:
    """Return which of KINDS a model is."""
    if model.average is None or model.failure is not None:
        return "failed"
    return "founders" if model.founder else "explorations" if model.exploration else "offspring"


def points(run: RunData, models: Sequence[Model], x: Sequence[float], y: Sequence[float], size: int) -> list[Scatter]:
    """Return a trace for each kind of model, with a point for each model, or for MAX_POINTS of them."""
    shown = thin_out(range(len(models)), MAX_POINTS)
    traces = []
    for kind, (symbol, colour) in KINDS.items():
        if some := [i for i in shown if kind_of(models[i]) == kind]:
            texts = [hover(run, models[i]) for i in some]
            across, up = [x[i] for i in some], [y[i] for i in some]
            traces.append(marks(kind, across, up, texts, symbol=symbol, color=colour, size=size))
    return traces


def beside(x: Sequence[float], y: Sequence[float], *, width: float, height: float) -> list[float]:
    """Return x of points such that those of one x and nearly one y stand side by side, not on each other.

    Args:
        x: of points that may share it, such as generations.
        y: of the same points.
        width: of a point, in units of x; no point is moved by more than 0.45.
        height: of a point, in units of y.
    """
    taken: dict[tuple[float, int], float] = {}
    aside = range(1, int(0.45 / width) + 1)  # widths to the right or to the left, within the column
    steps = [0, *(step for place in aside for step in (place, -place))]
    moved = list(x)
    for i in sorted(range(len(x)), key=lambda i: (x[i], y[i])):
        free = (step for step in steps if y[i] - taken.get((x[i], step), -math.inf) >= height)
        step = next(free, min(steps, key=lambda step: taken.get((x[i], step), -math.inf)))
        taken[x[i], step] = y[i]
        moved[i] = x[i] + step * width
    return moved


def sampling(count: int) -> str:
    """Return what follows the words that each of so many models is a point, where that would be too many."""
    return f": {MAX_POINTS:,} of {count:,}, evenly spaced, and the rest is left out" if count > MAX_POINTS else ""


def hover(run: RunData, model: Model) -> str:
    """Return a model's average, gain and parents, in a few lines."""
    lines = [f"<b>{escape(model.name)}</b>  {model.average:.2f} ± {model.stderr or 0.0:.2f}"]
    gain = run.population.gain(model.name)
    if gain is not None:
        lines.append(f"gain {gain:+.2f}, kinship of the parents {run.kinship.mean(model.parents):.3f}")
        lines.append("parents: " + " × ".join(map(escape, model.parents)))
    return "<br>".join(lines)
