"""Where the weights changed: by layer and kind, for the merges on the winner's line (the paper's figure 7)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from src.kinship import Grams
from src.pages.document import Drawing, Section
from src.pages.figures import axis, escape, figure, var
from src.population import Model
from src.report.run_data import RunData

TITLES = {
    "attention": "attention",
    "mlp": "MLP",
    "norms": "norms",
    "embeddings": "embeddings",
    "other": "other tensors",
}
"""Of the kinds of tensors, in the order of their figures."""
LINES = 8
"""Merges that have a line of their own, the latest: more could not be told apart."""
STYLES = (
    ("blue", "solid", "circle"),
    ("green", "dash", "square"),
    ("purple", "dot", "triangle-up"),
    ("yellow", "dashdot", "x"),
    ("sky", "solid", "triangle-down"),
    ("ink", "dash", "cross"),
    ("grey", "dot", "pentagon"),
    ("orange", "solid", "star"),
)
"""Colour, dash and symbol of each line; no two agree in more than one."""

Place = tuple[str, int | str]
"""A kind of tensors, and their layer; or the tensor's name outside the layers."""
Change = dict[Place, float]


def section(run: RunData) -> Section:
    """Return how far each merge moved the weights of its better parent."""
    title = "Where the weights changed"
    if run.grams is None:
        return Section("change", title, ["kinship.npz is not beside the journal; this figure is made from it."])
    measured = set(run.grams.names)
    whole = [model for model in run.lineage if model.parents and {model.name, *model.parents} <= measured]
    line = whole[-LINES:]
    if not line:
        return Section("change", title, ["There is no merge on the winner's line: the winner is a founder."])
    others = [m for m in run.offspring if m.exploration and {m.name, *m.parents} <= measured]
    borrowed = [] if any(model.exploration for model in line) else others
    changes = [(model, change(run.grams, model)) for model in [*line, *borrowed]]
    words = [
        "How far each merge on the winner's line moved the weights away from its better parent, as a share of how far "
        "training had moved that parent from the base: 0 is no change, 1 is as much as all of the training.",
    ]
    if len(whole) > len(line):
        words.append(f"Of the {len(whole)} merges on that line the {LINES} latest are shown.")
    if borrowed:
        words.append(
            "No exploration is on the winner's line; the orange line with diamonds is the mean of the run's "
            f"{len(borrowed)} explorations, for comparison."
        )
    elif not any(model.exploration for model in line):
        words.append("No exploration was made that could be compared.")
    places = list(dict.fromkeys(place for _, one in changes for place in one))
    panels = []
    for kind, heading in TITLES.items():
        layers = sorted(layer for of, layer in places if of == kind and isinstance(layer, int))
        if layers:
            traces = _traces(run, changes, [(kind, layer) for layer in layers], layers)
            drawn = _draw(traces, axis("layer", dtick=1 if len(layers) <= 16 else None))
            panels.append([Drawing(f"change-{kind}", heading, drawn)])
    outside = [(kind, name) for kind, name in places if isinstance(name, str)]
    if outside:
        names = [escape(name.removeprefix("model.")) for _, name in outside]
        traces = _traces(run, changes, outside, names)
        drawn = _draw(traces, axis("", type="category", range=[-0.5, len(names) - 0.5]))
        drawn.update_layout(scattermode="group", scattergap=0.5)  # side by side: one place has a point of every merge
        panels.append([Drawing("change-outside", "outside the layers", drawn.update_traces(mode="markers"))])
    return Section("change", title, words, panels)


def change(grams: Grams, model: Model) -> Change:
    """Return how far a merge moved its better parent's weights: |child − parent| / |parent − base|, by kind and place.

    NaN where the parent does not differ from the base.
    """
    child, parent = 1 + grams.names.index(model.name), 1 + grams.names.index(model.parents[0])
    moved: dict[Place, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for tensor, gram in zip(grams.tensors, grams.gram, strict=True):
        place = tensor.name.removesuffix(".weight") if tensor.layer is None else tensor.layer
        difference = gram[child, child] + gram[parent, parent] - 2 * gram[child, parent]
        moved[tensor.kind, place] += (max(difference, 0.0), gram[parent, parent])
    return {
        place: math.sqrt(difference / whole) if whole > 0 else math.nan for place, (difference, whole) in moved.items()
    }


def _draw(traces: Sequence[Scatter], xaxis: dict[str, Any]) -> Figure:
    height = 300 + 12 * max(0, len(traces) - 3)  # the legend takes a line for each on a narrow screen
    return figure(traces, height=height, xaxis=xaxis, yaxis=axis("change", rangemode="tozero"))


def _traces(
    run: RunData, changes: Sequence[tuple[Model, Change]], places: Sequence[Place], x: Sequence[Any]
) -> list[Scatter]:
    """Return a line for each merge of the winner's lineage, and one for the mean of the explorations beyond it."""
    traces: list[Scatter] = []
    others = []
    for model, one in changes:
        values = [one.get(place, math.nan) for place in places]
        if model.name not in run.line:
            others.append(values)
            continue
        note = ", the winner" if model.name == run.winner.name else ", exploration" if model.exploration else ""
        text = f"{escape(model.name)} = {' × '.join(map(escape, model.parents))}"
        traces.append(_trace(f"{escape(model.name)}{note}", x, values, text, *STYLES[len(traces)]))
    if others:
        known = [[value for value in column if not math.isnan(value)] for column in zip(*others, strict=True)]
        mean = [fmean(values or [math.nan]) for values in known]
        text = f"mean of {len(others)} explorations"
        traces.append(_trace("explorations, mean", x, mean, text, "orange", "longdash", "diamond"))
    return traces


def _trace(name: str, x: Sequence[Any], y: Sequence[float], text: str, colour: str, dash: str, symbol: str) -> Scatter:
    trace = Scatter(name=name, mode="lines+markers", x=x, y=y, opacity=0.9, offsetgroup=name)
    trace.update(text=[f"{text}<br>{value:.3f}" for value in y], hoverinfo="text")
    return trace.update(line={"color": var(colour), "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 7})
