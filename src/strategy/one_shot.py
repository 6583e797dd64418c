"""The baseline that every expert asks for: all founders in one merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from src.population import KinshipTable, Pair, Population


@dataclass(frozen=True)
class OneShot:
    """One merge of all founders, one evaluation, done. An evolution that does not beat it has bought nothing."""

    name: Literal["one_shot"]

    def pairs(self, population: Population, kinship: KinshipTable) -> list[Pair]:
        """All founders at once in generation 1, nothing after it."""
        founders = population.better_first(model.name for model in population if model.founder)
        return [] if frozenset(founders) in population.merged() else [Pair(founders)]

    def may_parent(self, population: Population) -> set[str]:
        """The models that can still become parents: the founders, until they were."""
        return {model.name for model in population.eligible() if model.founder}

    def most_pairs(self, models: int) -> int:
        """The most pairs that a generation can have."""
        return 1

    def most_parents(self, founders: int) -> int:
        """The most parents that a pair can have: all founders."""
        return founders
