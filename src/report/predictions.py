"""What a search that predicts promised of its candidates, and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import axis, escape, figure, marks, thin_out, var
from src.pages.text import number
from src.population import Model, Prediction
from src.report.points import MAX_POINTS
from src.report.run_data import RunData

LEAST = 2
"""Candidates with a prediction below which there is nothing to compare."""

Known = tuple[int, Model, Prediction, float]
"""A candidate's place among all models evaluated, itself, what was predicted of it, and what was found, in points."""


def section(run: RunData) -> Section | None:
    """Return what was predicted and found of each candidate; None where the strategy predicted next to nothing."""
    places = {event["model"]: place for place, event in enumerate(run.evaluations, 1)}
    known = [
        (places[model.name], model, model.predicted, run.population.found(model))
        for model in run.offspring
        if model.predicted is not None
    ]
    if len(known) < LEAST:
        return None
    drawn = Drawing("predicted", "predicted and found", _draw(thin_out(known, MAX_POINTS)))
    return Section("predictions", "Was it as predicted?", [_words(known)], [[drawn]], wide=True)


def _words(known: Sequence[Known]) -> str:
    errors = [found - promised.value for _, _, promised, found in known]
    within = sum(promised.low <= found <= promised.high for _, _, promised, found in known)
    typical = math.sqrt(fmean(error**2 for error in errors))
    words = (
        "Before a candidate was merged its score was predicted, with a 95 % interval, from the answers of all models "
        f"evaluated until then. Of {len(known)} candidates {within} ({within / len(known):.0%}) were found within "
        f"their intervals. Found minus predicted: {number(fmean(errors), '+.2f')} points on average, {typical:.2f} "
        "root mean square."
    )
    if any(model.part is not None for _, model, _, _ in known):
        words += " Candidates were asked a part of the samples each: what was found is of that part."
    return words


def _draw(known: Sequence[Known]) -> Figure:
    places, models, promised, scores = zip(*known, strict=True)
    bars = {
        "array": [one.high - one.value for one in promised],
        "arrayminus": [one.value - one.low for one in promised],
    }
    predicted = Scatter(name="predicted (95 %)", mode="markers", x=places, y=[one.value for one in promised])
    predicted.update(error_y={**bars, "color": var("quiet"), "thickness": 1, "width": 3}, hoverinfo="skip")
    predicted.update(marker={"size": 7, "symbol": "line-ew-open", "color": var("quiet")})
    texts = [
        f"<b>{escape(model.name)}</b>  {score:.2f} found<br>{one.value:.2f} predicted ({one.low:.2f} to {one.high:.2f})"
        for model, one, score in zip(models, promised, scores, strict=True)
    ]
    drawn = [predicted, marks("found", places, scores, texts)]
    return figure(drawn, xaxis=axis("evaluations"), yaxis=axis("points"))
