"""How the best average grew: over generations, and over what was paid for it."""

from __future__ import annotations

import itertools
from typing import Any

from src.pages.look import Drawing, Figure, Section, axis, figure, rounded, safe, thinned, var
from src.population import Model
from src.report.story import Story

SIGMAS = 1.96
"""Standard errors on either side of a 95 % interval."""
POINTS = 1000
"""Models up to which each is a point in figures of all; of more, so many evenly spaced over the run."""
KINDS = (
    ("founders", "square", "grey"),
    ("offspring", "circle", "blue"),
    ("explorations", "diamond", "orange"),
)


def section(story: Story) -> Section:
    """The best average so far, with its interval, among all models."""
    bought = {event["model"]: number for number, event in enumerate(story.evaluations, 1)}
    born = {model.name: model.generation for model in story.population}
    words = [
        "The line is the best average so far; the band is its 95 % interval (±1.96 standard errors over samples). "
        f"Every model is a point{of_points(len(story.population.eligible()))}.",
    ]
    return Section(
        "ascent",
        "How far it got",
        words,
        [
            [Drawing("best-by-generation", "by generation", _drawn(story, born, "generation"))],
            [Drawing("best-by-evaluations", "by evaluations paid", _drawn(story, bought, "evaluations"))],
        ],
    )


def of_points(count: int) -> str:
    """What follows the claim that every one of so many models is a point, where that would be too many."""
    return f": {POINTS:,} of {count:,}, evenly spaced, and the rest is left out" if count > POINTS else ""


def kind(model: Model) -> int:
    """The place in KINDS of a model."""
    return 0 if model.founder else 2 if model.exploration else 1


def _drawn(story: Story, place: dict[str, int], title: str) -> Figure:
    models = sorted(story.population.eligible(), key=lambda model: place[model.name])
    last = max(place.values())
    margin = max(0.3, 0.02 * last)
    x, best = _record(models, place, last + 0.8 * margin)
    errors = [SIGMAS * (model.stderr or 0.0) for model in best]
    upper = [rounded((model.average or 0.0) + error) for model, error in zip(best, errors, strict=True)]
    lower = [rounded((model.average or 0.0) - error) for model, error in zip(best, errors, strict=True)]
    line = {"shape": "hv", "color": var("blue"), "width": 2.5}
    band = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "x": x, "line": {"shape": "hv", "width": 0}}
    data: list[dict[str, Any]] = [
        {**band, "y": lower, "showlegend": False},
        {**band, "y": upper, "fill": "tonexty", "fillcolor": var("band"), "name": "95 %"},
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": x,
            "y": [rounded(model.average) for model in best],
            "text": [f"best so far: {safe(model.name)}, {model.average:.2f}" for model in best],
            "hoverinfo": "text",
            "line": line,
        },
        *_points(story, thinned(models, POINTS), place),
    ]
    whole = {"dtick": 1} if last <= 12 else {}
    return figure(data, xaxis=axis(title, range=[x[0] - margin, last + margin], **whole), yaxis=axis("average, points"))


def _record(models: list[Model], place: dict[str, int], last: float) -> tuple[list[float], list[Model]]:
    """Where the best so far changed hands, who it was from there on, and a little beyond the end of the run.

    The models come in the order of their places.
    """
    x: list[float] = []
    best: list[Model] = []
    for at, some in itertools.groupby(models, key=lambda model: place[model.name]):
        now = max([*best[-1:], *some], key=lambda model: model.average or 0.0)
        if not best or now.name != best[-1].name:
            x.append(at)
            best.append(now)
    return [*x, last], [*best, best[-1]]


def _points(story: Story, models: list[Model], place: dict[str, int]) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    for number, (name, symbol, colour) in enumerate(KINDS):
        some = [model for model in models if kind(model) == number]
        if some:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [place[model.name] for model in some],
                    "y": [rounded(model.average) for model in some],
                    "text": [hover(story, model) for model in some],
                    "hoverinfo": "text",
                    "marker": {
                        "symbol": symbol,
                        "size": 9 if number == 2 else 8,
                        "color": var(colour),
                        "line": {"color": var("card"), "width": 1},
                    },
                }
            )
    return traces


def hover(story: Story, model: Model) -> str:
    """A model in a few lines: average, gain, parents."""
    error = model.stderr or 0.0
    lines = [f"<b>{safe(model.name)}</b>  {model.average:.2f} ± {error:.2f}"]
    gain = story.population.gain(model.name)
    if gain is not None:
        related = story.kinship.mean(model.parents)
        lines.append(f"gain {gain:+.2f}, kinship of the parents {related:.3f}")
        lines.append("parents: " + " × ".join(map(safe, model.parents)))
    return "<br>".join(lines)
