"""The learned recipe: coefficients by block and direction follow the gradient of the loss on what steers the search.

The derivative of the loss by a coefficient is ⟨∂L/∂W, δ⟩, the kinship of the gradient with what a founder changed. The
learning itself is src.learning's; here is what is learned, from where, and which candidates come of it.
docs/learning.md has the method, its formulas and its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from src.population import Geometry, KinshipTable, Population, Proposal
from src.strategy.directions import Directed
from src.strategy.recipes import Blocks, FineDivision, weighted, weights_of

Loss = Literal["target", "choice", "agreement", "entropy"]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be learned: the weights of D directions in B blocks.

    Attributes:
        directions: their names.
        blocks: the block, 0 to B - 1, of every tensor by name.
        start: float64 [D, B], the weights to start from.
        metric: float64 [B, D, D], inner products of the directions in every block, of which the mean diagonal sums to
            1 over the blocks: how far weights are from the start.
        settings: how it is learned.
        targets: of questions (lm-eval task, document) the probabilities of their choices that are to be matched; None:
            the right answers are learned.
    """

    directions: tuple[str, ...]
    blocks: Mapping[str, int]
    start: np.ndarray
    metric: np.ndarray
    settings: RecipeGradient
    targets: Mapping[tuple[str, int], np.ndarray] | None = None


Learner = Callable[[Lesson], np.ndarray | None]
"""Goes on with the lesson and returns the weights [D, B] that did best on what was kept back; None where nothing is
better than before, and nothing is left to learn. Given as `Population.learner`."""


class Lessons(Protocol):
    """What learns for a run (`src.learning.lessons.Learner`), or takes derivatives for it."""

    event: tuple[str, dict[str, Any]] | None
    """What the journal is to tell of the last lesson, an event and its fields; None where there is no news."""

    def check(self) -> None:
        """Refuse tasks that nothing can be learned from."""

    def learn(self, lesson: Any) -> Any:
        """Go on with a lesson: see `Learner`, and `src.strategy.recipe_search.Differentiator`."""

    def assist(self, order: Any) -> Callable[[int], Any]:
        """Return what does a part of what another process's lesson handed out."""


@dataclass(frozen=True)
class RecipeGradient(Directed):
    """Every generation is a few gradient steps, and one candidate: the best weights so far on samples kept back.

    Of an earlier run (`warm_start`) the best weighted sum alone is made, and started from if nothing before is better.
    """

    name: Literal["recipe_gradient"]
    blocks: FineDivision = "tensor"
    objective_loss: Loss = "target"
    """What is learned: to say the right answer; to prefer it to the other choices, as the metric does, where there are
    any; or, without looking at what is right, to choose as each task's best founder does, or to be certain."""
    samples: Annotated[int, Field(ge=2)] | None = None
    """Of each task, what is learned from, the kept-back ones included; None: all that steer the search."""
    kept_back: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of them that is not learned from, by which learning stops early."""
    batch: Count = 48
    """Samples of a gradient step."""
    at_once: Count | None = None
    """Samples of a batch that go through the model together; None: all of them, or what each process has of them."""
    steps: Count = 10
    """Gradient steps between two looks at what was kept back."""
    every: Count = 4
    """Looks between two candidates, at least: a candidate is evaluated only if its weights are the best so far."""
    patience: Count = 4
    """Looks without a better one after which learning ends."""
    total: Count = 80
    """Gradient steps, at most."""
    rate: Annotated[float, Field(gt=0)] = 0.03
    """Of Adam, in units of a weight."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Of the rate over all steps."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps during which the rate grows to its full size."""
    prior: Annotated[float, Field(ge=0)] = 0.0
    """Pull towards the start: this times the squared distance, in mean squared lengths of a direction."""
    checkpointing: bool = False
    """Keep a layer's input only and compute the rest again: less memory, a third more time."""
    learns: ClassVar[bool] = True

    @property
    def needs_answers(self) -> bool:  # type: ignore[override]
        """Whether what founders answered is asked for."""
        return self.objective_loss == "agreement"

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the directions' merges, then an earlier run's best, then what was learned; [] when that is all.

        Without a learner (a plan, a report), nothing is learned.
        """
        if first := self.first(population, best=True):
            return first
        if population.learner is None or kinship.geometry is None:
            return []
        blocks = Blocks.of(self.blocks, kinship.geometry)
        lesson = self._lesson(population, kinship.geometry, blocks)
        if (weights := population.learner(lesson)) is None:
            return []
        proposal = weighted(population, dict(zip(lesson.directions, weights.tolist(), strict=True)), blocks)
        return [] if proposal.key in population.merged() else [proposal]

    @property
    def _beginnings(self) -> int:
        """Return the generations before anything is learned."""
        return bool(self.directions or self.start is not None) + (self.warm_start is not None)

    def _lesson(self, population: Population, geometry: Geometry, blocks: Blocks) -> Lesson:
        directions = self.known(population, geometry)
        recipes = [
            (population.value(model), recipe)
            for model in population.until(self._beginnings).eligible()
            if (recipe := weights_of(model, directions, blocks)) is not None
        ]
        grams = blocks.grams(geometry, directions)
        return Lesson(
            directions,
            blocks.by_tensor,
            max(recipes, key=lambda one: one[0])[1],
            grams / np.trace(grams.sum(axis=0)) * len(directions),
            self,
            _agreement(population) if self.objective_loss == "agreement" else None,
        )


def _agreement(population: Population) -> dict[tuple[str, int], np.ndarray]:
    """Return what the best founder of every task answered, as probabilities, where a question has choices."""
    assert population.answers is not None
    founders = [model for model in population.eligible() if model.founder]
    questions = population.answers(founders[0].name).questions
    best = [max(founders, key=lambda model: model.scores[task]).name for task in questions.tasks]
    values = {name: population.answers(name).values for name in set(best)}
    found = {}
    for asked, task, first, choices in zip(
        questions.ids, questions.task, questions.first, questions.choices, strict=True
    ):
        if choices > 1:
            said = values[best[task]][first : first + choices].astype(float)
            chances = np.exp(said - said.max())
            found[asked] = chances / chances.sum()
    return found
