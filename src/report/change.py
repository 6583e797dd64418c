"""Where the weights changed: by layer and kind, for the merges on the winner's line (the paper's figure 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from src.kinship import Grams
from src.pages.look import Drawing, Figure, Section, axis, figure, rounded, safe, var
from src.population import Model
from src.report.story import Story

TITLES = {
    "attention": "attention",
    "mlp": "MLP",
    "norms": "norms",
    "embeddings": "embeddings",
    "other": "other tensors",
}

Change = dict[str, dict[str, float]]
"""By kind and place: a layer's number, or the tensor's name outside the layers."""


def section(story: Story) -> Section:
    """How far each merge moved the weights of its better parent."""
    title = "Where the weights changed"
    if story.grams is None:
        return Section("change", title, ["kinship.npz is not beside the journal; this figure is made from it."])
    measured = set(story.grams.names)
    line = [model for model in story.line if model.parents and {model.name, *model.parents} <= measured]
    if not line:
        return Section("change", title, ["There is no merge on the winner's line: the winner is a founder."])
    others = [m for m in story.offspring if m.exploration and {m.name, *m.parents} <= measured]
    borrowed = [] if any(model.exploration for model in line) else others
    changes = [(model, change(story.grams, model)) for model in [*line, *borrowed]]
    words = [
        "How far each merge on the winner's line moved the weights away from its better parent, as a share of how far "
        "training had moved that parent from the base: 0 is no change, 1 is as much as all of the training.",
    ]
    if borrowed:
        words.append(
            f"No exploration is on the winner's line; the dashed line is the mean of the run's {len(borrowed)} "
            "explorations, for comparison."
        )
    elif not any(model.exploration for model in line):
        words.append("No exploration was made that could be compared.")
    within = [kind for kind in TITLES if any(place.isdigit() for _, one in changes for place in one.get(kind, {}))]
    panels = [[Drawing(f"change-{kind}", TITLES[kind], _by_layer(story, changes, kind))] for kind in within]
    if any(not place.isdigit() for _, one in changes for places in one.values() for place in places):
        panels.append([Drawing("change-outside", "outside the layers", _outside(story, changes))])
    return Section("change", title, words, panels)


def change(grams: Grams, model: Model) -> Change:
    """How far a merge moved its better parent's weights: |child − parent| / |parent − base|, by kind and place.

    NaN where the parent does not differ from the base.
    """
    child, parent = 1 + grams.names.index(model.name), 1 + grams.names.index(model.parents[0])
    moved: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for tensor, gram in zip(grams.tensors, grams.gram, strict=True):
        place = tensor.name.removesuffix(".weight") if tensor.layer is None else str(tensor.layer)
        difference = gram[child, child] + gram[parent, parent] - 2 * gram[child, parent]
        moved[tensor.kind, place] += (max(difference, 0.0), gram[parent, parent])
    found: Change = defaultdict(dict)
    for (kind, place), (difference, whole) in moved.items():
        found[kind][place] = float(np.sqrt(difference / whole)) if whole > 0 else float("nan")
    return found


Changes = list[tuple[Model, Change]]


def _by_layer(story: Story, changes: Changes, kind: str) -> Figure:
    layers = sorted({int(place) for _, one in changes for place in one.get(kind, {}) if place.isdigit()})
    x = list(map(str, layers))
    traces = _traces(story, changes, lambda one: [one.get(kind, {}).get(place) for place in x], layers)
    whole = {"dtick": 1} if len(layers) <= 16 else {}
    return figure(traces, height=300, xaxis=axis("layer", **whole), yaxis=axis("change", rangemode="tozero"))


def _outside(story: Story, changes: Changes) -> Figure:
    places = list(dict.fromkeys((kind, p) for _, one in changes for kind in one for p in one[kind] if not p.isdigit()))
    x = [safe(place.removeprefix("model.")) for _, place in places]
    traces = _traces(story, changes, lambda one: [one.get(kind, {}).get(place) for kind, place in places], x)
    for trace in traces:
        trace["mode"] = "markers"
    return figure(
        traces,
        height=300,
        xaxis=axis("", type="category", range=[-0.5, len(x) - 0.5]),
        yaxis=axis("change", rangemode="tozero"),
    )


def _traces(story: Story, changes: Changes, values: Any, x: list[Any]) -> list[dict[str, Any]]:
    """A line a merge of the winner's line; the explorations beyond it as their mean."""
    line = {model.name for model in story.line}
    traces, shown = [], set()
    for model, one in changes:
        if model.name not in line:
            continue
        name = "exploration" if model.exploration else "greedy"
        text = f"{safe(model.name)} = {' × '.join(map(safe, model.parents))} ({name})"
        traces.append(_trace(name, x, values(one), text, name not in shown))
        shown.add(name)
    beyond = [values(one) for model, one in changes if model.name not in line]
    if beyond:
        mean = [fmean(v for v in column if v is not None) for column in zip(*beyond, strict=True)]
        traces.append(_trace("explorations, mean", x, mean, f"mean of {len(beyond)} explorations", True, dash="dash"))
    return traces


def _trace(
    name: str, x: list[Any], y: Sequence[float | None], text: str, legend: bool, dash: str = "solid"
) -> dict[str, Any]:
    greedy = name == "greedy"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "x": x,
        "y": [rounded(value) for value in y],
        "text": [f"{text}<br>{rounded(value, 3)}" for value in y],
        "hoverinfo": "text",
        "line": {"color": var("blue" if greedy else "orange"), "width": 2, "dash": dash},
        "marker": {"symbol": "circle" if greedy else "diamond", "size": 7},
        "opacity": 0.85,
    }
