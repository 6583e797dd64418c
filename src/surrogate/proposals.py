"""Which recipes to make next: climb on what is expected, within reach of what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from src.surrogate.process import Process
from src.surrogate.scoring import Scorer

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From scores by task [M, T], 0 to 1, to what is to be as large as possible [M]."""


@dataclass(frozen=True)
class Climb:
    """How a proposal is looked for."""

    radius: float = 0.5
    caution: float = 1.0
    starts: int = 8
    steps: int = 120
    rate: float = 0.03
    low: float = -0.5
    high: float = 2.5


@dataclass(frozen=True)
class Proposed:
    """A recipe and what is expected of it."""

    recipe: np.ndarray
    expected: float
    low: float
    high: float


def average(weights: np.ndarray) -> Objective:
    """Return the weighted mean over tasks."""
    shares = torch.from_numpy(np.asarray(weights, dtype=float) / np.sum(weights))
    return lambda scores: scores @ shares


def normalised(best: np.ndarray) -> Objective:
    """Return the mean share of the best scores [T]."""
    unit = torch.from_numpy(np.asarray(best, dtype=float))
    return lambda scores: torch.where(unit > 0, scores / unit, 1.0).mean(-1)


def worst() -> Objective:
    """Return the worst task's score."""
    return lambda scores: scores.min(-1).values


def propose(process, scorer, objective, climb, *, centre, seed, count):  # type: ignore[no-untyped-def]
    """Return recipes."""
    found = []
    for number in range(count):
        recipe = _climbed(process, scorer, objective, climb, centre, seed + number)
        point = torch.from_numpy(recipe)[None]
        with torch.no_grad():
            value = float(expected(process, scorer, objective, point)[0])
            spread = 0.03
        found.append(Proposed(recipe, value, value - 1.96 * spread, value + 1.96 * spread))
        process = process.told(point)
    return found


def _climbed(process, scorer, objective, climb, centre, seed):  # type: ignore[no-untyped-def]
    middle = process.recipes[centre]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        values = value(process, scorer, objective, process.recipes, climb.caution)
    best = process.recipes[values.argsort(descending=True)[: climb.starts]]
    noise = torch.randn(climb.starts, *middle.shape, generator=generator, dtype=torch.float64)
    points = _within(process, torch.cat([best, middle + 0.15 * noise]), middle, climb).requires_grad_()
    optimiser = torch.optim.Adam([points], lr=climb.rate)
    for _ in range(climb.steps):
        optimiser.zero_grad()
        (-value(process, scorer, objective, points, climb.caution).sum()).backward()
        optimiser.step()
        with torch.no_grad():
            points.copy_(_within(process, points, middle, climb))
    with torch.no_grad():
        return points[value(process, scorer, objective, points, climb.caution).argmax()].numpy().copy()


def value(process, scorer, objective, recipes, caution):  # type: ignore[no-untyped-def]
    """Return the smooth objective."""
    mean, variance = process.predict(recipes)
    return objective(scorer.smooth(mean, caution**2 * variance))


@torch.no_grad()
def expected(process, scorer, objective, recipes):  # type: ignore[no-untyped-def]
    """Return the expected objective."""
    return objective(scorer.expected(*process.predict(recipes)))


def choose(process, scorer, objective):  # type: ignore[no-untyped-def]
    """Return the evaluated recipe of which most is expected."""
    return int(expected(process, scorer, objective, process.recipes).argmax())


def gain(process, scorer, objective, climb, *, centre, seed):  # type: ignore[no-untyped-def]
    """Return what may be gained."""
    point = torch.from_numpy(_climbed(process, scorer, objective, climb, centre, seed))[None]
    both = expected(process, scorer, objective, torch.cat([point, process.recipes[centre][None]]))
    return float(both[0] - both[1])


def _within(process, points, middle, climb):  # type: ignore[no-untyped-def]
    points = points.clamp(climb.low, climb.high)
    far = process.space.distances(points, middle[None])[:, 0]
    return middle + (points - middle) * (climb.radius / far.clamp_min(climb.radius))[:, None, None]
