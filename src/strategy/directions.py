"""Directions: what a recipe weighs. The founders' changes, and those of merges of all founders by other methods."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from src.population import Geometry, Key, Model, Population, Proposal
from src.strategy.base import OfFounders
from src.strategy.recipes import Blocks, merge_of, settings_of, weighted


@dataclass(frozen=True)
class Direction:
    """A merge of all founders, whose change is a direction like a founder's: `merge` of the configuration."""

    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    each: dict[str, Any] = field(default_factory=dict)
    base_model: Literal["ancestor"] = "ancestor"
    dtype: None = None
    tokenizer_source: Literal["auto"] | None = "auto"

    def proposal(self, founders: tuple[str, ...]) -> Proposal:
        """Return the merge of these founders."""
        each = [self.each] * len(founders)
        merge = {"method": self.method, "base_model": self.base_model, "parameters": self.parameters, "each": each}
        return Proposal(founders, merge=merge)


@dataclass(frozen=True)
class Directed(OfFounders):
    """A strategy whose recipes weigh directions: their settings, and the merges that come before any recipe."""

    name: str
    seed: int
    directions: dict[str, Direction] | None = None
    """Merges of all founders by other methods, made and evaluated first; each is one more direction."""
    start: float | None = None
    """The weight of every founder in a first recipe, made beside the directions; None: no such recipe."""
    warm_start: str | None = None
    """Folder of an earlier run over founders of this one, whose weighted sums are made and evaluated before any other:
    what the cache remembers of them costs nothing."""

    def possible_parents(self, population: Population) -> set[str]:
        """Return the founders and the directions: no recipe is made of another."""
        return super().possible_parents(population) | {model.name for model in self.made(population)}

    def most_proposals(self, models: int) -> int:
        """Return the most merges of a generation: in the first, the directions and the recipe to start from."""
        return max(1, len(self.directions or {}) + (self.start is not None))

    def most_parents(self, founders: int) -> int:
        """Return the number of founders and directions."""
        return founders + len(self.directions or {})

    def made(self, population: Population) -> list[Model]:
        """Return the models that are directions: merges of all founders by another method."""
        wanted = {one.key for one in self._of_directions(population)}
        merged = (model for model in population.models if model.merge is not None and model.failure is None)
        return [model for model in merged if Proposal(model.parents, merge=model.merge).key in wanted]

    def known(self, population: Population, geometry: Geometry) -> tuple[str, ...]:
        """Return the names of the founders and the directions, as far as they were measured."""
        models = [*(model for model in population.eligible() if model.founder), *self.made(population)]
        return tuple(model.name for model in models if model.name in geometry.names)

    def first(self, population: Population, *, best: bool = False) -> list[Proposal]:
        """Return the merges that come before any that is searched for or learned; [] when all were tried.

        In generation 1 these are the directions' and the recipe to start from, asked of all samples; then those of an
        earlier run that are weighted sums of the same founders and directions, or the best of them alone.
        """
        own = self._of_directions(population)
        if self.start is not None:
            weights = {name: [self.start] for name in self._founders(population)}
            own.append(weighted(population, weights, Blocks.of("whole", None)))
        if population.generation < bool(own):
            return [replace(one, whole=True) for one in own]
        if population.generation > bool(own):
            return []
        done = population.merged()
        return [one for one in self._earlier(population, best) if one.key not in done]

    def _founders(self, population: Population) -> tuple[str, ...]:
        return population.better_first(model.name for model in population if model.founder)

    def _of_directions(self, population: Population) -> list[Proposal]:
        founders = self._founders(population)
        return [direction.proposal(founders) for direction in (self.directions or {}).values()]

    def _earlier(self, population: Population, best: bool) -> list[Proposal]:
        """Return the merges of an earlier run, made as they were made there, to the same bytes.

        So what is remembered of them is not asked again.
        """
        if population.earlier is None:
            return []
        models, founders = population.earlier()
        names = dict(founders)
        here = {Proposal(model.parents, merge=model.merge).key: model.name for model in self.made(population)}
        found: dict[Key, tuple[float, Proposal]] = {}
        for model in models:
            known = merge_of(model)
            if known is None or model.average is None or not names.keys() >= set(known[0]):
                continue
            proposal = Proposal(tuple(names[parent] for parent in known[0]), merge=known[1], whole=model.part is None)
            if proposal.key in here:
                names[model.name] = here[proposal.key]
            elif settings_of(model):
                found[proposal.key] = (model.average if model.expected is None else model.expected), proposal
        if best and found:
            return [max(found.values(), key=lambda one: one[0])[1]]
        return [proposal for _, proposal in found.values()]
