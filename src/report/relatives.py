"""How related the models are: the matrix of kinship in two orders, and how that of the k best grew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from src.pages.look import HEAT, Drawing, Figure, Section, axis, figure, rounded, safe, var
from src.report.story import Story
from src.strategy.stop import SATURATION

LABELLED = 60
"""Models up to which the matrix names every row."""


def section(story: Story) -> Section:
    """Kinship of everybody to everybody that was measured."""
    shown = {model.name for model in story.shown} & story.state.measured
    names = [model.name for model in story.population.best(len(story.population)) if model.name in shown]
    growth = [[Drawing("kinship-growth", "as the run went on", _growth(story))]]
    if len(names) < 2:
        return Section("kinship", "How related they are", ["No kinship was measured."])
    words = [
        f"Kinship is {story.metric.about}. Blank cells were never measured: by then the weights of one of the two "
        "had been deleted (keep=all keeps them)."
        if _gaps(story, names)
        else f"Kinship is {story.metric.about}.",
        "Where the k best have become near-copies (one bright block), merging them brings nothing new.",
        *story.left_out,
    ]
    matrices = [
        Drawing("kinship-by-average", "best first", _matrix(story, names)),
        Drawing("kinship-by-relatedness", "relatives together", _matrix(story, clustered(story, names))),
    ]
    return Section("kinship", "How related they are", words, [matrices, *growth])


def clustered(story: Story, names: Sequence[str]) -> list[str]:
    """The names in the order of a tree of average linkage, its leaves turned so that neighbours are related."""
    far = _values(story, names)
    if story.metric.larger_is_closer:
        far = 1 - far
    known = far[np.isfinite(far)]
    far = np.where(np.isfinite(far), far, known.mean() if len(known) else 1.0)
    np.fill_diagonal(far, 0)
    condensed = squareform(np.clip((far + far.T) / 2, 0, None), checks=False)
    tree = hierarchy.linkage(condensed, "average", optimal_ordering=len(names) <= 400)
    return [names[leaf] for leaf in hierarchy.leaves_list(tree)]


def _values(story: Story, names: Sequence[str]) -> np.ndarray:
    """[n, n], NaN where a pair was never measured, the metric's own value on the diagonal."""
    matrix = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(matrix, story.metric.itself)
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        matrix[i, j] = matrix[j, i] = story.kinship.between(a, b)
    return matrix


def _gaps(story: Story, names: Sequence[str]) -> bool:
    return bool(np.isnan(_values(story, names)).any())


def _matrix(story: Story, names: Sequence[str]) -> Figure:
    matrix = _values(story, names)
    labels = [safe(name) for name in names]
    ticks = {"showticklabels": len(names) <= LABELLED, "showgrid": False, "type": "category", "ticks": ""}
    size = 11 if len(names) <= 30 else 9
    known = matrix[np.isfinite(matrix)]
    heat = {
        "type": "heatmap",
        "z": [[rounded(value, 3) for value in row] for row in matrix.tolist()],
        "x": labels,
        "y": labels,
        "hovertemplate": "%{y} and %{x}: %{z:.3f}<extra></extra>",
        "hoverongaps": False,
        "colorscale": HEAT,
        "reversescale": not story.metric.larger_is_closer,
        "zmin": min(0.0, float(known.min())),
        "zmax": float(known.max()),
        "xgap": 1 if len(names) <= LABELLED else 0,
        "ygap": 1 if len(names) <= LABELLED else 0,
        "colorbar": {"thickness": 12, "outlinewidth": 0, "title": {"text": story.metric.name, "side": "right"}},
    }
    return figure(
        [heat],
        height=440,
        meta="square",
        xaxis={**ticks, "tickangle": -90, "tickfont": {"size": size}},
        yaxis={**ticks, "autorange": "reversed", "tickfont": {"size": size}},
    )


def _growth(story: Story) -> Figure:
    """Mean kinship of S_k, and of the parents merged, by generation; the threshold of saturation where there is one."""
    top = {g: value for g, value in story.top_kinship.items() if not math.isnan(value)}
    merged: dict[int, list[float]] = {}
    for model in story.population:
        if model.parents and not math.isnan(value := story.kinship.mean(model.parents)):
            merged.setdefault(model.generation, []).append(value)
    line = {"type": "scatter", "mode": "lines+markers", "marker": {"size": 7}}
    data = [
        {
            **line,
            "name": f"the {story.k} best",
            "x": list(top),
            "y": [rounded(value) for value in top.values()],
            "line": {"color": var("orange"), "width": 2.5},
            "hovertemplate": "generation %{x}: %{y:.3f}<extra></extra>",
        },
        {
            **line,
            "name": "parents merged, mean",
            "x": list(merged),
            "y": [rounded(sum(values) / len(values)) for values in merged.values()],
            "line": {"color": var("blue"), "width": 2, "dash": "dot"},
            "hovertemplate": "generation %{x}: %{y:.3f}<extra></extra>",
        },
    ]
    shapes, notes = [], []
    if (level := threshold(story)) is not None:
        shapes = [_level(level)]
        notes = [{"x": 0, "xref": "paper", "y": level, "text": "saturated beyond", "showarrow": False}]
        notes[0] |= {"xanchor": "left", "yanchor": "bottom", "font": {"size": 11, "color": var("quiet")}}
    whole = {"dtick": 1} if story.population.generation <= 12 else {}
    return figure(
        [one for one in data if one["x"]],
        height=440,
        xaxis=axis("generation", **whole),
        yaxis=axis(f"mean kinship ({story.metric.name})"),
        shapes=shapes,
        annotations=notes,
    )


def threshold(story: Story) -> float | None:
    """The mean kinship past which the run counted its k best as saturated; None where it had no such rule."""
    wanted = story.settings["stop"]["kinship"]
    if wanted == "auto":
        return SATURATION if story.metric.larger_is_closer else None
    return wanted


def _level(value: float) -> dict[str, object]:
    line = {"color": var("quiet"), "dash": "dash", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line}
