"""How related the models are: the kinship matrix in two orders, and the kinship of the k best by generation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from plotly.graph_objects import Figure, Heatmap, Scatter
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from src.pages.document import Drawing, Section
from src.pages.figures import HEAT, axis, escape, figure, var
from src.report.run_data import RunData

LABELLED = 60
"""Models up to which the matrix names every row."""
HEIGHT = 440


def section(run: RunData) -> Section:
    """Return the kinship of every measured pair of the models that are shown."""
    shown = {model.name for model in run.shown} & run.state.measured
    names = [model.name for model in run.population.best(len(run.population)) if model.name in shown]
    if len(names) < 2:
        return Section("kinship", "How related they are", ["No kinship was measured."])
    # [n, n]: NaN where a pair was never measured, the metric's own value on the diagonal
    matrix = np.array([[run.metric.itself if a == b else run.kinship.between(a, b) for b in names] for a in names])
    words = [f"Kinship is {run.metric.about}."]
    if np.isnan(matrix).any():
        words[0] += (
            " Blank cells were never measured: by then the weights of one of the two had been deleted (keep=all keeps "
            "them)."
        )
    words.append("Where the k best have become near-copies (one bright block), merging them brings nothing new.")
    order = _cluster(1 - matrix if run.metric.larger_is_closer else matrix)
    clustered = _heatmap(run, [names[i] for i in order], matrix[np.ix_(order, order)])
    matrices = [
        Drawing("kinship-by-average", "best first", _heatmap(run, names, matrix)),
        Drawing("kinship-by-relatedness", "relatives together", clustered),
    ]
    growth = [Drawing("kinship-growth", "as the run went on", _growth(run))]
    return Section("kinship", "How related they are", [*words, *run.omissions], [matrices, growth])


def _cluster(distances: np.ndarray) -> np.ndarray:
    """Return the order of the leaves of an average-linkage tree, turned so that neighbours are related."""
    known = distances[np.isfinite(distances)]
    filled = np.where(np.isfinite(distances), distances, known.mean() if len(known) else 1.0)
    np.fill_diagonal(filled, 0)
    condensed = squareform(np.clip(filled, 0, None), checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(condensed, "average", optimal_ordering=len(distances) <= 400))


def _heatmap(run: RunData, names: Sequence[str], matrix: np.ndarray) -> Figure:
    labels, gap = [escape(name) for name in names], int(len(names) <= LABELLED)
    heatmap = Heatmap(x=labels, y=labels, z=matrix.round(3).tolist(), xgap=gap, ygap=gap, hoverongaps=False)
    heatmap.update(hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>", colorscale=HEAT)
    heatmap.update(reversescale=not run.metric.larger_is_closer)
    heatmap.update(zmin=min(0.0, float(np.nanmin(matrix))), zmax=float(np.nanmax(matrix)))
    heatmap.update(colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": run.metric.name, "side": "right"}})
    ticks = {"showticklabels": bool(gap), "showgrid": False, "type": "category", "ticks": ""}
    ticks["tickfont"] = {"size": 11 if len(names) <= 30 else 9}
    across, down = {**ticks, "tickangle": -90}, {**ticks, "autorange": "reversed"}
    return figure([heatmap], HEIGHT, meta="square", xaxis=across, yaxis=down)


def _growth(run: RunData) -> Figure:
    """Draw the mean kinship of the k best, and of the parents merged, by generation, and the stopping threshold."""
    top = {generation: value for generation, value in run.top_kinship.items() if not math.isnan(value)}
    parents: dict[int, list[float]] = defaultdict(list)
    for model in run.population:
        if not math.isnan(value := run.kinship.mean(model.parents)):
            parents[model.generation].append(value)
    merged = {generation: fmean(values) for generation, values in parents.items()}
    across = axis("generation", dtick=1 if run.population.generation <= 12 else None)
    drawn = figure([], HEIGHT, xaxis=across, yaxis=axis(f"mean kinship ({run.metric.name})"))
    for name, values, line in (
        (f"the {run.k} best", top, {"color": var("orange"), "width": 2.5}),
        ("parents merged, mean", merged, {"color": var("blue"), "width": 2, "dash": "dot"}),
    ):
        if values:
            trace = Scatter(name=name, mode="lines+markers", x=list(values), y=list(values.values()), line=line)
            drawn.add_trace(trace.update(marker_size=7, hovertemplate="generation %{x}: %{y:.3f}<extra></extra>"))
    if run.threshold is not None:
        drawn.add_hline(
            run.threshold,
            line={"color": var("quiet"), "dash": "dash", "width": 1},
            annotation={"text": "saturated beyond", "font": {"size": 11, "color": var("quiet")}},
            annotation_position="top left",
        )
    return drawn
