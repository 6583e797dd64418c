"""The search of recipes: predict every answer of every recipe from those that were evaluated, make what promises most.

A recipe gives every direction a weight in every block of the model; directions are the founders, and merges of all
founders by other methods. docs/search.md has the method, its formulas and its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from src.population import Derivatives, KinshipTable, Outlook, Population, Proposal
from src.strategy.directions import Directed
from src.strategy.recipes import Division

if TYPE_CHECKING:
    from src.strategy.problem import Problem
    from src.surrogate.questions import Questions

MEASURED: dict[bool, dict[str, float]] = {
    True: {"radius": 0.15, "curiosity": 3.0, "low": -0.5},
    False: {"radius": 0.5, "curiosity": 1.0, "low": 0.0},
}
"""What measured best on families 0 to 3, with merges by other methods as directions, and with the founders alone."""
_FITTED: dict[tuple[Any, ...], Problem] = {}
"""The last problem: fitted for the outlook of a generation, it proposes the next one."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where derivatives of scores are to be taken: at an evaluated model, by the weights of n directions in B blocks.

    Attributes:
        model: its name.
        directions: their names.
        blocks: the block, 0 to B - 1, of every tensor by name.
        weights: float64 [n, B], the model's own.
        questions: that make the scores.
    """

    model: str
    directions: tuple[str, ...]
    blocks: Mapping[str, int]
    weights: np.ndarray
    questions: Questions


Differentiator = Callable[[Place], Derivatives | None]
"""Returns derivatives at a place; None where the budget leaves no room for them and an evaluation. Given as
`Population.learner`."""


@dataclass(frozen=True)
class RecipeSearch(Directed):
    """A Gaussian process over all answers, whose kernel is kinship, chooses the recipes worth an evaluation."""

    name: Literal["recipe_search"]
    start: float | None = 0.4
    blocks: Division = "part"
    batch: Annotated[int, Field(ge=1)] = 1
    """Proposals a generation, each told of the others: as many as there are processes keeps them all busy."""
    radius: Annotated[float, Field(gt=0)] | None = None
    """Of the trust region around the best recipe, in mean lengths of a direction; None: see `MEASURED`."""
    curiosity: Annotated[float, Field(ge=0)] | None = None
    """What the unknown counts, in standard deviations; 0 goes by what is expected alone. None: see `MEASURED`."""
    low: float | None = None
    """Least weight of a recipe; None: see `MEASURED`."""
    high: float = 2.5
    """Largest weight of a recipe."""
    derivatives: bool = False
    """Take the derivatives of all tasks' scores by the weights, once, at the best so far: worth 3 evaluations."""
    needs_answers: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True

    @property
    def learns(self) -> bool:  # type: ignore[override]
        """Whether gradients are asked for."""
        return self.derivatives

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the directions' merges, then an earlier run's, then what promises most; [] if nothing is new."""
        if first := self.first(population):
            return first
        problem = self.problem(self._differentiated(population, kinship), kinship)
        if problem is None:
            return []
        proposals = {one.key: one for one in problem.propose(population, self.batch, self.seed + len(population))}
        done = population.merged()
        return [one for one in proposals.values() if one.key not in done]

    def _differentiated(self, population: Population, kinship: KinshipTable) -> Population:
        """Return the population with derivatives, which are taken if they are wanted and can be."""
        problem = self.problem(population, kinship)
        if not self.derivatives or population.derivatives or population.learner is None or problem is None:
            return population
        place = Place(
            problem.models[problem.best],
            problem.directions,
            problem.blocks.by_tensor,
            problem.process.recipes[problem.best].numpy(),
            problem.questions,
        )
        return replace(population, derivatives=population.learner(place))

    def outlook(self, population: Population, kinship: KinshipTable) -> Outlook | None:
        """Return what every evaluated recipe is taken to be worth, given the answers of all, and what may be gained."""
        problem = self.problem(population, kinship)
        return None if problem is None else problem.outlook(self.seed + len(population))

    @property
    def climb(self) -> dict[str, Any]:
        """How far and how boldly is searched (`src.surrogate.proposals.Climb`): as set, else as measured best."""
        given = {"radius": self.radius, "curiosity": self.curiosity, "low": self.low, "high": self.high}
        return MEASURED[bool(self.directions)] | {key: value for key, value in given.items() if value is not None}

    def most_proposals(self, models: int) -> int:
        """Return the most merges of a generation: `batch`, or those of the first."""
        return max(self.batch, super().most_proposals(models))

    def problem(self, population: Population, kinship: KinshipTable) -> Problem | None:
        """Return what is known, fitted; None before the founders were measured, or where answers are not kept."""
        if kinship.geometry is None or population.answers is None:
            return None
        evaluated = ((one.name, one.fingerprint, one.average) for one in population.eligible())
        key = (repr(self), population.objective, population.derivatives is None, *evaluated)
        if key not in _FITTED:
            from src.strategy import problem  # torch's import takes seconds

            _FITTED.clear()
            _FITTED[key] = problem.fit(self, population, kinship.geometry)
        return _FITTED[key]
