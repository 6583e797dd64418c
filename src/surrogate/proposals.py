"""Which recipes to make next, which of those made is best, and what is still to be gained.

A proposal is the recipe c of largest

    value(c) = objective(smooth scores of the answers expected of c) + curiosity · deviation(c)

within a trust region of weight space around the best that is known, found by climbing its gradient from several places.
The deviation of an objective is that of the answers, on average and over their own, times how far the objectives of the
evaluated models lay from what the other models let expect (leave one out), over theirs. Of several proposals each is
told of those before: its deviation is less near them, for as much as their answers will tell (Desautels, Krause and
Burdick 2014, batch upper confidence bounds).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from src.surrogate.kernel import noise
from src.surrogate.objectives import Objective
from src.surrogate.process import Process
from src.surrogate.scoring import Scorer

_ROWS = 1 << 22
"""Answers that are looked at at a time."""
_SURE = 1.96
"""Deviations to either side that hold 95 %."""


@dataclass(frozen=True)
class Climb:
    """How a proposal is looked for.

    Attributes:
        radius: of the trust region, in mean lengths of a direction.
        curiosity: how many deviations of the objective are added to what is expected of it.
        low, high: bounds of a recipe's weights.
        starts: places to climb from: the best evaluated recipes, and as many at random within the region.
        steps, rate: of Adam.
        apart: how far from every recipe evaluated or proposed a new one should lie, in units of the radius.
    """

    radius: float = 0.15
    curiosity: float = 3.0
    low: float = -0.5
    high: float = 2.5
    starts: int = 8
    steps: int = 80
    rate: float = 0.03
    apart: float = 0.1


@dataclass(frozen=True, eq=False)
class Proposed:
    """A recipe to make, and what is expected of it.

    Attributes:
        recipe: float64 [n, B].
        expected: the objective, in its own unit.
        low, high: within which it lies with 95 % probability.
        gain: points (hundredths of the unit) by which it is expected to surpass the best evaluated recipe, 0 or more.
    """

    recipe: np.ndarray
    expected: float
    low: float
    high: float
    gain: float


def propose(
    process: Process, scorer: Scorer, objective: Objective, climb: Climb, *, centre: int, seed: int, count: int = 1
) -> list[Proposed]:
    """Return the recipes that promise most; the same arguments always give the same ones.

    Args:
        process: fitted to what is known.
        scorer: of its answers.
        objective: what counts.
        climb: how it is looked for.
        centre: the evaluated recipe around which the trust region lies.
        seed: of the places to climb from.
        count: how many, each told of the others.
    """
    middle = process.recipes[centre].clamp(climb.low, climb.high)
    generator = torch.Generator().manual_seed(seed)
    unit = _unit(process, scorer, objective, smooth=True)
    chosen: list[torch.Tensor] = []
    for _ in range(count):
        told = process.told(torch.stack(chosen)) if chosen else process
        search = _Search(process, told, scorer, objective, climb, middle, unit)
        chosen.append(search.best(search.starts(generator)))
    return judge(process, scorer, objective, torch.stack(chosen))


@torch.no_grad()
def judge(process: Process, scorer: Scorer, objective: Objective, recipes: torch.Tensor) -> list[Proposed]:
    """Return what is expected of recipes [M, n, B], evaluated or not."""
    best = _expected(process, scorer, objective, process.recipes).max()
    expected = _expected(process, scorer, objective, recipes)
    deviation = _unit(process, scorer, objective, smooth=False) * _deviation(process, recipes)
    ahead = (expected - best) / deviation
    density = torch.exp(-(ahead**2) / 2) / np.sqrt(2 * np.pi)
    gains = 100 * deviation * (ahead * torch.special.ndtr(ahead) + density)  # expected improvement
    low, high = expected - _SURE * deviation, expected + _SURE * deviation
    figures = torch.stack([expected, low, high, gains.clamp_min(0.0)], 1).tolist()
    return [Proposed(recipe.numpy().copy(), *row) for recipe, row in zip(recipes, figures, strict=True)]


def choose(process: Process, scorer: Scorer, objective: Objective) -> int:
    """Return which of the evaluated recipes is best by what is expected of it, not by its luckiest score."""
    return int(_expected(process, scorer, objective, process.recipes).argmax())


def gain(process: Process, scorer: Scorer, objective: Objective, climb: Climb, centre: int, seed: int = 0) -> float:
    """Return the points (hundredths of the unit) that the next proposal is expected to gain over the best."""
    return propose(process, scorer, objective, climb, centre=centre, seed=seed)[0].gain


@dataclass(frozen=True, eq=False)
class _Search:
    """For one proposal: `told` knows those before it, `unit` is the objective's deviation over the answers'."""

    process: Process
    told: Process
    scorer: Scorer
    objective: Objective
    climb: Climb
    middle: torch.Tensor
    unit: float

    def value(self, recipes: torch.Tensor) -> torch.Tensor:
        """Return what recipes [M, n, B] promise: [M]."""
        mean, variance = self.process.predict(recipes)
        expected = self.objective(self.scorer.smooth(mean, variance))
        return expected + self.climb.curiosity * self.unit * _deviation(self.told, recipes)

    def starts(self, generator: torch.Generator) -> torch.Tensor:
        """Return places [M, n, B] to climb from."""
        with torch.no_grad():
            known = self.process.recipes
            values = torch.cat([self.value(some) for some in _chunks(known, self.process)])
            best = known[values.argsort(descending=True, stable=True)[: self.climb.starts]]
        shape = (self.climb.starts, *self.middle.shape)
        steps = torch.randn(shape, generator=generator, dtype=torch.float64)
        lengths = self.process.space.distances(steps, torch.zeros_like(self.middle)[None])[:, 0].clamp_min(1e-12)
        reach = self.climb.radius * torch.rand(self.climb.starts, generator=generator, dtype=torch.float64) / lengths
        return self._within(torch.cat([best, self.middle + steps * reach[:, None, None]]))

    def best(self, starts: torch.Tensor) -> torch.Tensor:
        """Climb from the starts [M, n, B]; return the best recipe found [n, B] that is far enough from all others."""
        points = starts.clone().requires_grad_()
        optimiser = torch.optim.Adam([points], lr=self.climb.rate)
        for _ in range(self.climb.steps):
            optimiser.zero_grad()
            (-self.value(points).sum()).backward()
            optimiser.step()
            with torch.no_grad():
                points.copy_(self._within(points))
        with torch.no_grad():
            every = torch.cat([points.detach(), starts])
            apart = self.process.space.distances(every, self.told.recipes).amin(1)
            values = self.value(every)
        fresh = apart >= self.climb.apart * self.climb.radius
        values = torch.where(fresh, values, -torch.inf) if fresh.any() else apart  # nothing is new: the farthest
        return every[values.argmax()]

    def _within(self, points: torch.Tensor) -> torch.Tensor:
        """Move points [M, n, B] to within the bounds, then straight towards the middle into the trust region."""
        points = points.clamp(self.climb.low, self.climb.high)
        far = self.process.space.distances(points, self.middle[None])[:, 0]
        within = self.climb.radius / far.clamp_min(self.climb.radius)
        return self.middle + (points - self.middle) * within[:, None, None]


def _deviation(process: Process, recipes: torch.Tensor) -> torch.Tensor:
    """Return the deviation [M] of the answers of recipes [M, n, B] over their own, with what no recipe explains."""
    return (process.spread(recipes) ** 2 + noise(process.hyper)).sqrt()


_USUAL, _TRUST = 0.1, 5.0
"""The objective's deviation over the answers' where nothing is known of it, and for how many models that counts."""


@torch.no_grad()
def _unit(process: Process, scorer: Scorer, objective: Objective, smooth: bool) -> float:
    """Return the objective's deviation over that of the answers, from each evaluated model as the others predict it."""
    if len(process.recipes) < 2:
        return _USUAL
    score = scorer.smooth if smooth else scorer.expected
    answers, (mean, variance) = process.answers(), process.leave_one_out()
    asked = ~answers.isnan()
    expected = whole = score(mean, variance)
    if not asked.all():  # what a model was not asked tells nothing of how well it is predicted
        expected = score(torch.where(asked, mean, torch.nan), variance)
    found = score(answers, torch.zeros_like(answers)) if smooth else scorer.found(answers)
    predicted, scored = (objective(torch.where(one.isnan(), whole, one)) for one in (expected, found))
    off = scored - predicted
    share = torch.where(asked, variance / process.unit, 0.0).sum(1) / asked.sum(1).clamp_min(1)
    relative = share + noise(process.hyper)
    return float(((_TRUST * _USUAL**2 + (off**2 / relative).sum()) / (_TRUST + len(off))).sqrt())


@torch.no_grad()
def _expected(process: Process, scorer: Scorer, objective: Objective, recipes: torch.Tensor) -> torch.Tensor:
    """Return the objective of the expected scores of recipes [M, n, B]: [M]."""
    return torch.cat([objective(scorer.expected(*process.predict(some))) for some in _chunks(recipes, process)])


def _chunks(recipes: torch.Tensor, process: Process) -> tuple[torch.Tensor, ...]:
    return recipes.split(max(1, _ROWS // max(1, len(process.mean))))
