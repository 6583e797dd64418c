"""The control: as many merges as the paper's strategy takes, of parents drawn at random."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from src.population import KinshipTable, Population, Proposal
from src.strategy.base import Strategy
from src.strategy.topk import AtLeastTwo, Exploration, KinshipTopk


@dataclass(frozen=True)
class RandomPairs(Strategy):
    """As many pairs a generation as `kinship_topk` would take here, drawn from all that were not merged yet."""

    name: Literal["random_pairs"]
    k: AtLeastTwo
    seed: int
    explore: Exploration = field(default_factory=Exploration)

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return pairs in the order drawn, the better parent of each first."""
        names = [model.name for model in population.best(len(population))]
        free = _Free(names, population.merged())
        wanted = len(KinshipTopk("kinship_topk", self.k, self.explore).propose(population, kinship))
        # Seeded by generation, so that the draw needs no state and a resumed run draws the same.
        draw = random.Random(f"{self.seed}/{population.generation + 1}")
        return [Proposal(free[number]) for number in draw.sample(range(len(free)), min(wanted, len(free)))]

    def most_proposals(self, models: int) -> int:
        """Return the most merges that a generation can have, starting from this many models."""
        return math.comb(min(self.k, models), 2) + 1


class _Free:
    """All pairs of `names` but those in `done`, in the order of itertools.combinations, without a list of them."""

    def __init__(self, names: Sequence[str], done: Iterable[frozenset[str]]) -> None:
        self._names = names
        count = len(names)
        self._starts = [first * (2 * count - first - 1) // 2 for first in range(count)]  # where pairs of `first` begin
        place = {name: i for i, name in enumerate(names)}
        both = (sorted(place[name] for name in pair) for pair in done if len(pair) == 2 and pair <= place.keys())
        taken = sorted(self._starts[first] + second - first - 1 for first, second in both)
        self._free_before = [number - i for i, number in enumerate(taken)]  # free pairs ahead of each that is taken

    def __len__(self) -> int:
        return math.comb(len(self._names), 2) - len(self._free_before)

    def __getitem__(self, number: int) -> tuple[str, str]:
        number += bisect_right(self._free_before, number)
        first = bisect_right(self._starts, number, hi=len(self._names) - 1) - 1
        return self._names[first], self._names[first + 1 + number - self._starts[first]]
