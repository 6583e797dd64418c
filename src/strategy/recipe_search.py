"""The search of recipes: predict every answer of every recipe from those that were evaluated, make what promises most.

A recipe gives every direction a weight in every block of the model; directions are the founders, and merges of all
founders by other methods. docs/search.md has the method, its formulas and its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from src.population import Derivatives, Geometry, KinshipTable, Outlook, Population, Prediction, Proposal
from src.runtime.names import BASE
from src.strategy.directions import Directed
from src.strategy.recipes import Blocks, Division, weighted, weights_of

if TYPE_CHECKING:
    from src.surrogate.objectives import Objective
    from src.surrogate.process import Process
    from src.surrogate.proposals import Climb
    from src.surrogate.questions import Questions
    from src.surrogate.scoring import Scorer

MEASURED: dict[bool, dict[str, float]] = {
    True: {"radius": 0.15, "curiosity": 3.0, "low": -0.5},
    False: {"radius": 0.5, "curiosity": 1.0, "low": 0.0},
}
"""What measured best on families 0 to 3, with merges by other methods as directions, and with the founders alone."""
_FITTED: dict[tuple[Any, ...], Problem | None] = {}
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
        done = population.merged()
        if first := self.first(population):
            return first
        problem = self.problem(self._differentiated(population, kinship), kinship)
        if problem is None:
            return []
        proposals = {one.key: one for one in problem.propose(population, self.batch, self.seed + len(population))}
        return [one for one in proposals.values() if one.key not in done]

    def _differentiated(self, population: Population, kinship: KinshipTable) -> Population:
        """Return the population with derivatives, which are taken if they are wanted and can be."""
        problem = self.problem(population, kinship)
        if not self.derivatives or population.derivatives or population.learner is None or problem is None:
            return population
        assert kinship.geometry is not None
        blocks = zip(kinship.geometry.tensors, problem.blocks.members, strict=True)
        place = Place(
            problem.models[problem.best],
            problem.directions,
            {tensor.name: block for tensor, block in blocks},
            problem.process.recipes[problem.best].numpy(),
            problem.questions,
        )
        return replace(population, derivatives=population.learner(place))

    def outlook(self, population: Population, kinship: KinshipTable) -> Outlook | None:
        """Return what every evaluated recipe is taken to be worth, given the answers of all, and what may be gained."""
        problem = self.problem(population, kinship)
        return None if problem is None else problem.outlook(self.seed + len(population))

    @property
    def _climb(self) -> dict[str, float]:
        """Return how far and how boldly is searched: what is set, else what measured best."""
        given = {"radius": self.radius, "curiosity": self.curiosity, "low": self.low}
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
            _FITTED.clear()
            _FITTED[key] = self._fitted(population, kinship.geometry)
        return _FITTED[key]

    def _fitted(self, population: Population, geometry: Geometry) -> Problem | None:
        from src.surrogate import derivatives, process, proposals, scoring, space

        assert population.answers is not None
        blocks = Blocks.of(self.blocks, geometry)
        founders = [model.name for model in population.eligible() if model.founder]
        merged = [model.name for model in self.made(population) if model.name in geometry.names]
        directions = (*founders, *merged)
        recipes = {BASE: np.zeros((len(directions), len(blocks.names)))}
        for model in population.eligible():
            if (recipe := weights_of(model, directions, blocks)) is not None:
                recipes[model.name] = recipe
        answers = [population.answers(name) for name in recipes]
        questions: Questions = answers[0].questions
        values = questions.centred(np.stack([one.values for one in answers]))
        fitted = process.fit(
            space.Space(directions, blocks.names, blocks.grams(geometry, directions)),
            np.stack(list(recipes.values())),
            values,
            groups=np.repeat(questions.task, questions.choices),
        )
        scorer, told = scoring.Scorer(questions), population.derivatives
        if told is not None and told.directions == directions:
            at = list(recipes).index(told.model)
            fitted = derivatives.informed(fitted, scorer, questions, at, told.tasks, told.values)
        objective = _objective(population, questions.tasks)
        how = self._climb
        climb = proposals.Climb(how["radius"], how["curiosity"], low=how["low"], high=self.high)
        return Problem(tuple(recipes), directions, blocks, fitted, scorer, objective, climb, questions)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is known, and what follows for the recipes that nobody tried yet."""

    models: tuple[str, ...]
    """The evaluated ones, the base among them, in the order of the process's recipes."""
    directions: tuple[str, ...]
    blocks: Blocks
    process: Process
    scorer: Scorer
    objective: Objective
    climb: Climb
    questions: Questions
    """That the process's answers are to."""

    def propose(self, population: Population, count: int, seed: int) -> list[Proposal]:
        """Return the recipes that promise most."""
        from src.surrogate import proposals

        found = proposals.propose(
            self.process, self.scorer, self.objective, self.climb, centre=self.best, seed=seed, count=count
        )
        return [
            weighted(
                population,
                dict(zip(self.directions, one.recipe.tolist(), strict=True)),
                self.blocks,
                Prediction(100 * one.expected, 100 * one.low, 100 * one.high),
            )
            for one in found
        ]

    def outlook(self, seed: int) -> Outlook:
        """Return what the evaluated models are taken to be worth, and what may be gained on the best of them."""
        from src.surrogate import proposals

        found = proposals.judge(self.process, self.scorer, self.objective, self.process.recipes)
        known = {name: 100 * one.expected for name, one in zip(self.models, found, strict=True) if name != BASE}
        gain = proposals.gain(self.process, self.scorer, self.objective, self.climb, self.best, seed)
        return Outlook(known, gain)

    @property
    def best(self) -> int:
        """Which of the models is best by what is expected of it."""
        from src.surrogate import proposals

        return proposals.choose(self.process, self.scorer, self.objective)


def _objective(population: Population, tasks: Sequence[str]) -> Objective:
    """Return what is maximised, as a function of scores by task."""
    from src.surrogate import objectives

    if population.objective == "worst":
        return objectives.worst()
    if population.objective == "normalised":
        best = [max(model.scores[task] for model in population.eligible() if model.founder) for task in tasks]
        return objectives.normalised([score / 100 for score in best])
    return objectives.average([population.weights.get(task, 1.0) for task in tasks])
