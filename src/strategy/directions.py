"""Directions: what a recipe weighs. The founders' changes, and those of merges of all founders by other methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from src.population import Model, Population, Proposal
from src.strategy.recipes import Blocks, weighted


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
