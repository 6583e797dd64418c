"""Directions: what a recipe weighs. The founders' changes, and those of merges of all founders by other methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from src.population import Key, Model, Population, Proposal
from src.strategy.base import Strategy
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


Directions = Mapping[str, Direction]


@dataclass(frozen=True)
class Directed(Strategy):
    """A strategy whose recipes weigh directions: what is set of these, and what follows for its merges."""

    name: str
    seed: int
    directions: dict[str, Direction] | None = None
    """Merges of all founders by other methods, made and evaluated first; each is one more direction."""
    start: float | None = None
    """The weight of every founder in a first recipe, made beside the directions; None: no such recipe."""
    warm_start: str | None = None
    """Folder of an earlier run over founders of this one, whose weighted sums are made and evaluated before any other:
    what the cache remembers of them costs nothing."""

    def made(self, population: Population) -> list[Model]:
        """Return the models that are directions: merges of all founders by another method."""
        return made(population, self.directions or {})

    def possible_parents(self, population: Population) -> set[str]:
        """Return the founders and the directions: no recipe is made of another."""
        founders = {model.name for model in population.eligible() if model.founder}
        return founders | {model.name for model in self.made(population)}

    def most_proposals(self, models: int) -> int:
        """Return the most merges of a generation: in the first, the directions and the recipe to start from."""
        return max(1, len(self.directions or {}) + (self.start is not None))

    def most_parents(self, founders: int) -> int:
        """Return the number of founders and directions."""
        return founders + len(self.directions or {})


def first_merges(population: Population, directions: Directions, start: float | None) -> list[Proposal]:
    """Return the merges that a search of recipes begins with: the directions', and every founder with weight `start`.

    None of them needs a prediction; without a start there is no such recipe.
    """
    founders = population.better_first(model.name for model in population if model.founder)
    first = [
        Proposal(
            founders,
            merge={
                "method": one.method,
                "base_model": one.base_model,
                "parameters": one.parameters,
                "each": [one.each] * len(founders),
            },
        )
        for one in directions.values()
    ]
    if start is not None:
        weights = {name: [start] for name in founders}
        first.append(weighted(population, weights, Blocks.of("whole", None)))
    return first


def made(population: Population, directions: Directions) -> list[Model]:
    """Return the models that are directions: merges of all founders by another method."""
    wanted = {one.key for one in first_merges(population, directions, None)}
    merged = (model for model in population.models if model.merge is not None and model.failure is None)
    return [model for model in merged if Proposal(model.parents, merge=model.merge).key in wanted]


def begin(population: Population, directions: Directions, start: float | None, *, best: bool = False) -> list[Proposal]:
    """Return the merges that come before any that is searched for or learned; [] when all were tried.

    Args:
        population: so far.
        directions: made in generation 1.
        start: weight of every founder in a first recipe, made beside them; None: no such recipe.
        best: of an earlier run, made in the next generation, take the best merge alone.
    """
    first = first_merges(population, directions, start)
    if population.generation < bool(first):
        return [replace(one, whole=True) for one in first]
    if population.generation > bool(first):
        return []
    done = population.merged()
    return [one for one in earlier_merges(population, directions, best=best) if one.key not in done]


def earlier_merges(population: Population, directions: Directions, *, best: bool = False) -> list[Proposal]:
    """Return the merges of an earlier run that are weighted sums of this one's founders and directions.

    Each is made as it was made there, to the same bytes, so that what is remembered of it is not asked again.
    """
    if population.earlier is None:
        return []
    models, founders = population.earlier()
    names = dict(founders)
    here = {Proposal(model.parents, merge=model.merge).key: model.name for model in made(population, directions)}
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
