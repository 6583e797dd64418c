"""Figures of what was varied: which settings matter, and a line a configuration through their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plotly.graph_objects import Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import Figure, bars, escape, figure, var
from src.study.compare.configurations import Configuration
from src.study.compare.parameters import CHOICES, Parameters, number

AXES = 8
"""Settings that have an axis, the most important ones."""
SPREAD = 0.6
"""Part of a choice's room that its lines are spread over, so that none hides another."""
ABSENT = "(none)"
"""Label of configurations to which a setting does not apply."""


def section(found: Sequence[Configuration], varied: Parameters) -> Section:
    """Return how much each setting matters, and a line a configuration."""
    keys = list(varied.values)[:AXES]
    more = (
        f" Of {len(varied.values)} settings the {AXES} most important have an axis."
        if len(keys) < len(varied.values)
        else ""
    )
    words = [
        f"How much of what sets the best of {len(found)} configurations apart lies in which setting: conditional "
        "PED-ANOVA, as Optuna computes it. It counts what the best have in common, and a setting matters only where it "
        "applies. Of few configurations, and of settings that were varied together, it is a hint and no proof.",
        "Each line is a configuration, from its settings to its best average; orange lines are the best. Within "
        f"a choice the better lines are higher; {ABSENT} is where a setting does not apply.{more}",
    ]
    panels = [
        [Drawing("importance", "which settings matter", importances(varied))],
        [Drawing("parallel", "from settings to scores", parallel(found, varied), min_width=110 * (len(keys) + 1))],
    ]
    return Section("parameters", "Which settings matter", words, panels, wide=True)


def importances(varied: Parameters) -> Figure:
    """Return a bar a setting, the most important on top."""
    shares = {key: 100 * share for key, share in varied.importance.items()}
    texts = [f"{share:.0f} %" for share in shares.values()]
    return bars(shares, texts, "share of the importance, %", ["blue"] * len(shares), 90 + 26 * len(shares))


def parallel(found: Sequence[Configuration], varied: Parameters) -> Figure:
    """Return parallel coordinates: an axis a setting, the scores on the last; drawn as lines, which need no WebGL."""
    axes = [_axis(column, varied.scores) for column in list(varied.values.values())[:AXES]]
    low, high = min(varied.scores), max(varied.scores)
    last = [(score - low) / (high - low) for score in varied.scores]
    places = [[places[n] for places, _ in axes] + [last[n]] for n in range(len(found))]
    data = [
        _line(one, heights, score == high, (score - low) / (high - low))
        for one, heights, score in sorted(zip(found, places, varied.scores, strict=True), key=lambda each: each[2])
    ]
    ticks = [ticks for _, ticks in axes] + [[(0.0, f"{low:+.2f}"), (1.0, f"{high:+.2f}")]]
    names = [*map(_wrapped, list(varied.values)[:AXES]), "points above<br>the best founder"]
    labels = [_label(x, y, text) for x, marks in enumerate(ticks) for y, text in marks]
    upright = {"type": "line", "y0": -0.02, "y1": 1.02, "line": {"color": var("line"), "width": 1}, "layer": "below"}
    across = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.5, len(axes) + 0.55]}
    return figure(
        data,
        420,
        xaxis={**across, "showgrid": False},
        yaxis={"visible": False, "range": [-0.06, 1.06]},
        shapes=[{**upright, "x0": x, "x1": x} for x in range(len(names))],
        annotations=labels,
        showlegend=False,
    )


def _axis(column: Sequence[str | None], scores: Sequence[float]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the height of each value of a setting, 0 to 1, and labels with theirs."""
    known = {value for value in column if value is not None}
    numbers = {value: one for value in known if (one := number(value)) is not None}
    if len(numbers) == len(known) > CHOICES and len(known) == len({*column}):
        low, high = min(numbers.values()), max(numbers.values())
        heights = [(numbers[str(value)] - low) / (high - low) for value in column]
        return heights, [(0.0, f"{low:g}"), (1.0, f"{high:g}")]
    choices: list[str | None] = sorted(known, key=lambda value: (numbers.get(str(value), 0.0), value))
    choices = [None, *choices] if None in column else choices
    room = 1 / len(choices)
    heights = [0.0] * len(column)
    for place, choice in enumerate(choices):
        members = sorted((n for n, value in enumerate(column) if value == choice), key=lambda n: scores[n])
        for rank, n in enumerate(members):
            across = (rank + 0.5) / len(members) - 0.5
            heights[n] = room * (place + 0.5 + SPREAD * across)
    return heights, [
        (room * (place + 0.5), ABSENT if one is None else escape(one)) for place, one in enumerate(choices)
    ]


def _line(one: Configuration, heights: Sequence[float], best: bool, share: float) -> Scatter:
    told = f"{escape(one.label)}<br>{', '.join(escape(run.name) for run in one.runs.values())}"
    line = Scatter(mode="lines", x=list(range(len(heights))), y=heights, text=told, hoverinfo="text")
    line.update(opacity=1.0 if best else round(0.2 + 0.5 * share, 2))
    return line.update(line={"color": var("orange" if best else "blue"), "width": 2.5 if best else 1.5})


def _label(x: int, y: float, text: str) -> dict[str, Any]:
    place = {"x": x, "y": y, "xanchor": "left", "xshift": 4, "showarrow": False, "text": text}
    return {**place, "font": {"size": 11, "color": var("ink")}, "bgcolor": var("card"), "borderpad": 1, "opacity": 0.9}


def _wrapped(key: str) -> str:
    """Return a key in as many lines as it has parts."""
    return escape(key).replace(".", ".<br>")
