"""How the best average grew: over generations, and over evaluations paid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import axis, escape, figure, var
from src.population import Model
from src.report.points import beside, points, sampling
from src.report.run_data import RunData
from src.tracking.summary import NORMAL


def section(run: RunData) -> Section:
    """Return the best average so far, with its interval, among all models."""
    evaluations = {event["model"]: number for number, event in enumerate(run.evaluations, 1)}
    generations = {model.name: model.generation for model in run.population}
    words = [
        "The line is the best average so far; the band is its 95 % interval (±1.96 standard errors over samples). "
        f"Every model is a point{sampling(len(run.population.eligible()))}. Models of one generation that are equally "
        "good stand side by side.",
    ]
    panels = [
        [Drawing("best-by-generation", "by generation", _draw(run, generations, "generation"))],
        [Drawing("best-by-evaluations", "by evaluations paid", _draw(run, evaluations, "evaluations"))],
    ]
    return Section("progress", "How far it got", words, panels)


def _draw(run: RunData, place: Mapping[str, int], title: str) -> Figure:
    models = sorted(run.population.eligible(), key=lambda model: place[model.name])
    last = max(place.values())
    margin = max(0.3, 0.02 * last)
    best = _best_so_far(models, place)
    x = [*(place[model.name] for model in best), last + 0.8 * margin]
    best.append(best[-1])
    averages = np.array([model.average for model in best], dtype=float)
    errors = NORMAL * np.array([model.stderr or 0.0 for model in best])
    bound = Scatter(mode="lines", hoverinfo="skip", x=x, line={"shape": "hv", "width": 0})
    line = Scatter(mode="lines", name="best so far", x=x, y=averages.tolist(), hoverinfo="text")
    line.update(text=[f"best so far: {escape(model.name)}, {model.average:.2f}" for model in best])
    values = [model.average or 0.0 for model in models]
    tall = max(max(values) - min(values), 1e-9)
    at = beside([place[model.name] for model in models], values, width=(last + 2 * margin) / 50, height=tall / 28)
    drawn = [
        Scatter(bound, y=(averages - errors).tolist(), showlegend=False),
        Scatter(bound, y=(averages + errors).tolist(), name="95 %", fill="tonexty", fillcolor=var("band")),
        line.update(line={"shape": "hv", "color": var("blue"), "width": 2.5}),
        *points(run, models, at, values, 8),
    ]
    across = axis(title, range=[x[0] - margin, last + margin], dtick=1 if last <= 12 else None)
    return figure(drawn, xaxis=across, yaxis=axis("average, points"))


def _best_so_far(models: list[Model], place: Mapping[str, int]) -> list[Model]:
    """Return the models that were the best for some time, in order. The models come in the order of their places."""
    best: list[Model] = []
    for _, group in itertools.groupby(models, key=lambda model: place[model.name]):
        champion = max([*best[-1:], *group], key=lambda model: model.average or 0.0)
        if champion not in best[-1:]:
            best.append(champion)
    return best
