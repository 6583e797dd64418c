"""What a search of recipes knows, fitted, and what follows for the recipes that were never tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from src.population import Geometry, Outlook, Population, Prediction, Proposal
from src.runtime.names import BASE
from src.strategy.recipes import Blocks, weighted, weights_of
from src.surrogate import derivatives, objectives, process, proposals
from src.surrogate.objectives import Objective
from src.surrogate.process import Process
from src.surrogate.proposals import Climb
from src.surrogate.questions import Questions
from src.surrogate.scoring import Scorer
from src.surrogate.space import Space

if TYPE_CHECKING:
    from src.strategy.recipe_search import RecipeSearch


@dataclass(frozen=True, eq=False)
class Problem:
    """A process over the answers of all evaluated models, and what is searched with it."""

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
        found = proposals.judge(self.process, self.scorer, self.objective, self.process.recipes)
        known = {name: 100 * one.expected for name, one in zip(self.models, found, strict=True) if name != BASE}
        gain = proposals.gain(self.process, self.scorer, self.objective, self.climb, self.best, seed)
        return Outlook(known, gain)

    @property
    def best(self) -> int:
        """Which of the models is best by what is expected of it."""
        return proposals.choose(self.process, self.scorer, self.objective)


def fit(search: RecipeSearch, population: Population, geometry: Geometry) -> Problem:
    """Fit the process to what every model of the population answered that is a recipe, and to what derivatives told."""
    assert population.answers is not None
    blocks, directions = Blocks.of(search.blocks, geometry), search.known(population, geometry)
    recipes = {BASE: np.zeros((len(directions), len(blocks.names)))}
    for model in population.eligible():
        if (recipe := weights_of(model, directions, blocks)) is not None:
            recipes[model.name] = recipe
    answers = [population.answers(name) for name in recipes]
    questions: Questions = answers[0].questions
    fitted = process.fit(
        Space(directions, blocks.names, blocks.grams(geometry, directions)),
        np.stack(list(recipes.values())),
        questions.centred(np.stack([one.values for one in answers])),
        groups=np.repeat(questions.task, questions.choices),
    )
    scorer, told = Scorer(questions), population.derivatives
    if told is not None and told.directions == directions:
        at = list(recipes).index(told.model)
        fitted = derivatives.informed(fitted, scorer, questions, at, told.tasks, told.values)
    objective, climb = _objective(population, questions.tasks), Climb(**search.climb)
    return Problem(tuple(recipes), directions, blocks, fitted, scorer, objective, climb, questions)


def _objective(population: Population, tasks: Sequence[str]) -> Objective:
    """Return what is maximised, as a function of scores by task."""
    if population.objective == "worst":
        return objectives.worst()
    if population.objective == "normalised":
        best = [max(model.scores[task] for model in population.eligible() if model.founder) for task in tasks]
        return objectives.normalised([score / 100 for score in best])
    return objectives.average([population.weights.get(task, 1.0) for task in tasks])
