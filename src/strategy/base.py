"""What every strategy is: a choice of the merges that are worth making next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from src.population import KinshipTable, Outlook, Population, Proposal


@dataclass(frozen=True)
class Strategy(ABC):
    """Settings and a policy, as a frozen dataclass whose first field is its name in the configuration.

    A strategy holds no history and touches no file and no clock: given the same scores and kinships it always proposes
    the same merges, which is what lets an interrupted run go on.
    """

    name: str
    needs_answers: ClassVar[bool] = False
    """Whether it asks what models answered (`Population.answers`), which is then kept."""
    needs_base: ClassVar[bool] = False
    """Whether it asks what the base answered, which costs an evaluation."""
    learns: ClassVar[bool] = False
    """Whether it has weights learned by gradient (`Population.learner`)."""

    @abstractmethod
    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the merges of the next generation, none of them made before; [] when nothing is left to merge."""

    def possible_parents(self, population: Population) -> set[str]:
        """Return the models that can still become parents, whose weights are kept: by default any that may."""
        return {model.name for model in population.eligible()}

    @abstractmethod
    def most_proposals(self, models: int) -> int:
        """Return the most merges that a generation can have, starting from this many models."""

    def outlook(self, population: Population, kinship: KinshipTable) -> Outlook | None:
        """Return what is expected of the models so far, and of going on; None for a strategy that predicts nothing."""
        return None

    def most_parents(self, founders: int) -> int:
        """Return the most parents that a merge can have."""
        return 2


@dataclass(frozen=True)
class OfFounders(Strategy):
    """A strategy whose merges are made of all founders: offspring never become parents."""

    def possible_parents(self, population: Population) -> set[str]:
        """Return the founders."""
        return {model.name for model in population.eligible() if model.founder}

    def most_parents(self, founders: int) -> int:
        """Return the number of founders."""
        return founders
