"""The control: as many merges as the paper's strategy takes, of parents drawn at random."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from typing import Literal

from src.population import KinshipTable, Pair, Population
from src.strategy.topk import AtLeastTwo, Exploration, KinshipTopk


@dataclass(frozen=True)
class RandomPairs:
    """As many pairs a generation as `kinship_topk` would take here, drawn from all that were not merged yet."""

    name: Literal["random_pairs"]
    k: AtLeastTwo
    seed: int
    explore: Exploration = field(default_factory=Exploration)

    def pairs(self, population: Population, kinship: KinshipTable) -> list[Pair]:
        """The next generation's pairs, in the order drawn; the better parent of each first."""
        done = population.merged()
        names = [model.name for model in population.best(len(population))]
        candidates = [pair for pair in itertools.combinations(names, 2) if frozenset(pair) not in done]
        wanted = len(KinshipTopk("kinship_topk", self.k, self.explore).pairs(population, kinship))
        # Seeded by generation, so that the draw needs no state and a resumed run draws the same.
        draw = random.Random(f"{self.seed}/{population.generation + 1}")
        return [Pair(pair) for pair in draw.sample(candidates, min(wanted, len(candidates)))]

    def may_parent(self, population: Population) -> set[str]:
        """The models that can still become parents: any."""
        return {model.name for model in population.eligible()}

    def most_pairs(self, models: int) -> int:
        """The most pairs that a generation can have, starting from this many models."""
        return math.comb(min(self.k, models), 2) + 1

    def most_parents(self, founders: int) -> int:
        """The most parents that a pair can have."""
        return 2
