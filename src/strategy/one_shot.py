"""The baseline that every expert asks for: all founders in one merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from src.population import KinshipTable, Population, Proposal
from src.strategy.base import OfFounders


@dataclass(frozen=True)
class OneShot(OfFounders):
    """One merge of all founders, one evaluation, done. An evolution that does not beat it has bought nothing."""

    name: Literal["one_shot"]

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return all founders at once in generation 1, nothing after it."""
        founders = population.better_first(model.name for model in population if model.founder)
        return [] if frozenset(founders) in population.merged() else [Proposal(founders)]

    def most_proposals(self, models: int) -> int:
        """Return 1."""
        return 1
