"""Whose weights stay on disk while a run goes on: those that later merges may need."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from src.models.store import Store
from src.population import Population
from src.strategy import Strategy

Keep = Literal["all", "survivors", "best"]


@dataclass(frozen=True, eq=False)
class Retention:
    """The rule of `keep` for one run's store."""

    store: Store
    strategy: Strategy
    keep: Keep

    def parents(self, population: Population) -> set[str]:
        """Return the models whose weights are kept: founders, and what could still become a parent."""
        if self.keep == "all":
            return {model.name for model in population if model.failure is None}
        return {model.name for model in population if model.founder} | self.strategy.possible_parents(population)

    def stays(self, name: str, population: Population) -> bool:
        """Return whether a candidate's weights will be kept, however it is scored: even if it were the worst of all."""
        for model in population:
            if model.pending:
                population = population.update(model.name, average=-math.inf if model.name == name else math.inf)
        return name in self.parents(population)

    def discard_others(self, names: Iterable[str]) -> None:
        """Delete the weights of all offspring but these, unless all are kept."""
        if self.keep != "all":
            self.store.discard(names)
