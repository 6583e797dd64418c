"""The paper's two strategies (arXiv 2410.12613, Algorithm 1): merge the best, and explore the least related."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from src.population import KinshipTable, Model, Population, Proposal
from src.strategy.base import Strategy

AtLeastTwo = Annotated[int, Field(ge=2)]


@dataclass(frozen=True)
class GreedyTopk(Strategy):
    """All pairs among the k best models so far, founders included, that were not merged yet."""

    name: Literal["greedy_topk"]
    k: AtLeastTwo

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the pairs among the k best, best parents first."""
        return pairs_within(population, self.k)

    def possible_parents(self, population: Population) -> set[str]:
        """Return the k best: a model that is not among them now never will be again."""
        return {model.name for model in population.best(self.k)}

    def most_proposals(self, models: int) -> int:
        """Return the most merges that a generation can have, starting from this many models."""
        return math.comb(min(self.k, models), 2)


@dataclass(frozen=True)
class Exploration:
    """The merge that leads out of a dead end: the best model × the model least related to it."""

    pool: Literal["grandparents", "all"] = "grandparents"
    """`grandparents`: from the models of generation g−2 (the paper's experiment); `all`: from any model."""
    when: Literal["always", "saturated"] = "always"
    """`saturated`: only once the mean kinship of S_k has passed `kinship`."""
    kinship: float | None = None

    def __post_init__(self) -> None:
        if self.when == "saturated" and self.kinship is None:
            raise ValueError(
                "has when=saturated, which needs kinship=…: the mean kinship of the k best to explore from"
            )

    def pools(self, population: Population) -> list[Model]:
        """Return the models that the next generation's exploration, or a later one's, can draw from."""
        if self.pool == "all":
            return population.eligible()
        youngest = population.generation
        return [*population.of_generation(youngest - 1), *population.of_generation(youngest)]

    def propose(
        self, population: Population, kinship: KinshipTable, k: int, taken: set[frozenset[str]]
    ) -> Proposal | None:
        """Return the next generation's exploration, skipping the pairs in `taken`; None where there is none."""
        generation = population.generation + 1
        if generation < 2:
            return None
        if self.when == "saturated":
            assert self.kinship is not None
            if not kinship.closer(kinship.mean([model.name for model in population.best(k)]), self.kinship):
                return None
        pool = population.of_generation(generation - 2) if self.pool == "grandparents" else population.eligible()
        best = population.best(1)[0].name
        candidates = [model.name for model in pool if model.name != best and frozenset((best, model.name)) not in taken]
        other = kinship.least_related(best, candidates)
        return Proposal((best, other), exploration=True) if other else None


@dataclass(frozen=True)
class KinshipTopk(Strategy):
    """The paper's strategy: `greedy_topk`, and from generation 2 on one exploration a generation."""

    name: Literal["kinship_topk"]
    k: AtLeastTwo
    explore: Exploration = field(default_factory=Exploration)

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the pairs among the k best, best parents first, and the exploration last."""
        pairs = pairs_within(population, self.k)
        taken = population.merged() | {pair.key for pair in pairs}
        exploration = self.explore.propose(population, kinship, self.k, taken)
        return [*pairs, exploration] if exploration else pairs

    def possible_parents(self, population: Population) -> set[str]:
        """Return the k best, and the pools of explorations to come."""
        return {model.name for model in [*population.best(self.k), *self.explore.pools(population)]}

    def most_proposals(self, models: int) -> int:
        """Return the most merges that a generation can have, starting from this many models."""
        return math.comb(min(self.k, models), 2) + 1


def pairs_within(population: Population, k: int) -> list[Proposal]:
    """Return all pairs within S_k that were not merged yet, best first."""
    done = population.merged()
    best = [model.name for model in population.best(k)]
    return [Proposal(parents) for parents in itertools.combinations(best, 2) if frozenset(parents) not in done]
