"""Which recipes to make next: climb on what is expected and unknown, within reach of the best that is known.

With s(c) the objective of the smoothed scores that the process predicts (`Scorer.smooth`) and u(c) the standard deviation
of a recipe's answers over their own (`Process.spread`), a proposal maximises

    s(c) + κ · β · (u(c)² + noise)^½        |c − best| ≤ radius, in weight space

an upper confidence bound (Srinivas 2010) whose β is measured: how far, in units of u, the objectives of the evaluated
models lay from what the others predicted of them (leave-one-out), with a prior of FREEDOM models at PRIOR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from src.surrogate.kernel import noise
from src.surrogate.process import Process
from src.surrogate.scoring import Scorer

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From scores by task [M, T], 0 to 1, to what is to be as large as possible [M]."""

FREEDOM, PRIOR = 5.0, 0.3
"""The prior of β: so many models whose errors were that much of u."""
NORMAL = 1.96
"""Standard deviations to either side that make a 95 % interval."""
JITTER = 0.15
"""Standard deviation of the weights of starting points that are no evaluated recipes."""


@dataclass(frozen=True)
class Climb:
    """How a proposal is looked for.

    Attributes:
        radius: of the trust region, in mean lengths of a free direction.
        optimism: κ, what the unknown counts; 0 goes by what is expected alone.
        caution: of the predictions' own variance, how much shrinks them towards even odds, 0 to 1.
        starts: points to climb from: the best evaluated ones, and as many around the very best.
        steps, rate: of Adam.
        low, high: bounds of a recipe's weights.
    """

    radius: float = 0.15
    optimism: float = 1.0
    caution: float = 1.0
    starts: int = 8
    steps: int = 80
    rate: float = 0.03
    low: float = -0.5
    high: float = 2.5


@dataclass(frozen=True, eq=False)
class Proposed:
    """A recipe [n, B] and its objective as it is expected, with its 95 % interval; in the objective's unit."""

    recipe: np.ndarray
    expected: float
    low: float
    high: float


def average(weights: np.ndarray) -> Objective:
    """Return the mean over tasks, weighted [T]."""
    shares = torch.from_numpy(np.asarray(weights, dtype=float) / np.sum(weights))
    return lambda scores: scores @ shares


def normalised(best: np.ndarray) -> Objective:
    """Return the mean over tasks of the share of the best score [T]; 1 where that is 0."""
    unit = torch.from_numpy(np.asarray(best, dtype=float))
    return lambda scores: torch.where(unit > 0, scores / unit, 1.0).mean(-1)


def worst() -> Objective:
    """Return the lowest score of all tasks."""
    return lambda scores: scores.amin(-1)


def propose(
    process: Process, scorer: Scorer, objective: Objective, climb: Climb, *, centre: int, seed: int, count: int = 1
) -> list[Proposed]:
    """Return the recipes that promise most, each found as if those before it had answered just as expected.

    Args:
        process: fitted to what is known.
        scorer: of its answers.
        objective: what is to be large.
        climb: how they are looked for.
        centre: the evaluated recipe around which the trust region lies.
        seed: of the starting points.
        count: how many.
    """
    smooth, exact = error(process, scorer, objective, smoothed=True), error(process, scorer, objective)
    found: list[Proposed] = []
    for number in range(count):
        recipe = _climbed(process, scorer, objective, climb, climb.optimism * smooth, centre, seed + 1000 * number)
        found.append(_judged(process, scorer, objective, recipe, exact))
        process = process.told(recipe[None])
    return found


def judge(process: Process, scorer: Scorer, objective: Objective, recipe: np.ndarray) -> Proposed:
    """Return what is expected of a recipe [n, B]."""
    beta = error(process, scorer, objective)
    return _judged(process, scorer, objective, torch.from_numpy(np.array(recipe, dtype=float)), beta)


@torch.no_grad()
def expected(process: Process, scorer: Scorer, objective: Objective, recipes: torch.Tensor) -> torch.Tensor:
    """Return the objective of the scores that are expected of recipes [M, n, B]: [M]."""
    return objective(scorer.expected(*process.predict(recipes)))


def choose(process: Process, scorer: Scorer, objective: Objective) -> int:
    """Return the evaluated recipe of which most is expected, all answers considered: not the luckiest score."""
    return int(expected(process, scorer, objective, process.recipes).argmax())


def gain(process: Process, scorer: Scorer, objective: Objective, climb: Climb, *, centre: int, seed: int) -> float:
    """Return how much the next proposal is expected to add to the best evaluated recipe; 0 or more.

    The expected improvement (Jones 1998) of a normal prediction: what is uncertain may turn out better.
    """
    (best,) = expected(process, scorer, objective, process.recipes[centre][None])
    (next_,) = propose(process, scorer, objective, climb, centre=centre, seed=seed)
    spread = max((next_.high - next_.low) / (2 * NORMAL), 1e-12)
    ahead = torch.tensor((next_.expected - float(best)) / spread, dtype=torch.float64)
    density = torch.exp(-(ahead**2) / 2) / (2 * torch.pi) ** 0.5
    return max(0.0, float(spread * (ahead * torch.special.ndtr(ahead) + density)))


@torch.no_grad()
def error(process: Process, scorer: Scorer, objective: Objective, *, smoothed: bool = False) -> float:
    """Return β: the objective's standard error in units of the spread of answers, from leaving out each model."""
    mean, variance = process.leave_one_out()
    answers = process.predict(process.recipes)[0] + noise(process.hyper) * process.alpha
    if smoothed:
        off = objective(scorer.smooth(answers, torch.zeros_like(variance))) - objective(scorer.smooth(mean, variance))
    else:
        off = objective(scorer.found(answers)) - objective(scorer.expected(mean, variance))
    unit = torch.where(process.unit > 0, process.unit, 1.0)
    squares = off**2 / ((variance / unit).mean(1) + noise(process.hyper))
    return float(((FREEDOM * PRIOR**2 + squares.sum()) / (FREEDOM + len(off))).sqrt())


@torch.no_grad()
def _judged(process: Process, scorer: Scorer, objective: Objective, recipe: torch.Tensor, beta: float) -> Proposed:
    value = float(expected(process, scorer, objective, recipe[None])[0])
    spread = NORMAL * beta * float(_unknown(process, recipe[None])[0])
    return Proposed(recipe.numpy().copy(), value, value - spread, value + spread)


def _climbed(
    process: Process, scorer: Scorer, objective: Objective, climb: Climb, bonus: float, centre: int, seed: int
) -> torch.Tensor:
    """Return the recipe [n, B] of largest acquisition that Adam finds within the trust region."""

    def value(recipes: torch.Tensor) -> torch.Tensor:
        mean, variance = process.predict(recipes)
        found = objective(scorer.smooth(mean, climb.caution * variance))
        return found + bonus * _unknown(process, recipes) if bonus else found

    middle = torch.from_numpy(process.space.freed(process.recipes[centre].numpy()))
    with torch.no_grad():
        order = value(process.recipes).argsort(descending=True)[: climb.starts].tolist()
    best = torch.stack([torch.from_numpy(process.space.freed(process.recipes[one].numpy())) for one in order])
    generator = torch.Generator().manual_seed(seed)
    around = middle + JITTER * torch.randn(climb.starts, *middle.shape, generator=generator, dtype=torch.float64)
    points = _within(process, torch.cat([best, around]), middle, climb).requires_grad_()
    optimiser = torch.optim.Adam([points], lr=climb.rate)
    for _ in range(climb.steps):
        optimiser.zero_grad()
        (-value(points).sum()).backward()
        optimiser.step()
        with torch.no_grad():
            points.copy_(_within(process, points, middle, climb))
    with torch.no_grad():
        return points[value(points).argmax()].detach()


def _unknown(process: Process, recipes: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation [M] of what recipes will answer, over the answers' own."""
    return (process.spread(recipes) ** 2 + noise(process.hyper)).sqrt()


def _within(process: Process, points: torch.Tensor, middle: torch.Tensor, climb: Climb) -> torch.Tensor:
    """Return points [M, n, B] within the bounds, without anchors, those outside the trust region on its border."""
    free = torch.tensor(process.space.free)[:, None]
    points = torch.where(free, points.clamp(climb.low, climb.high), 0.0)
    far = process.space.distances(points, middle[None])[:, 0]
    return middle + (points - middle) * (climb.radius / far.clamp_min(climb.radius))[:, None, None]
