"""Offspring of offspring made from the founders that they descend from, in the shares that they descend.

What was merged by weights is a weighted sum of founders again, and made from these it is rounded once. A regression
that merges what the parents changed scales it anew in every generation, and asks their deltas, not the founders', where
they speak; from the founders it measured better (docs/merging.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.models.merging import Recipe

COMPOSED = frozenset({"wudi", "actmat", "regmean", "linear", "task_arithmetic"})


def composed(planned: Recipe, recipes: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """Return the recipe with founders in place of the offspring whose recipes these are, as the journal keeps them."""
    config = from_founders(planned.config, recipes)
    if config is planned.config:
        return planned
    donor = recipes[planned.donor]["donor"] if planned.donor in recipes else planned.donor
    return replace(planned, config=config, donor=donor)


def from_founders(config: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the configuration with founders in place of offspring that the same merge made of them.

    What another merge made, or one with weights that vary over the layers, stays a parent like any other. Models are
    named as in the population; the recipes, by the offspring's names, are from founders already.
    """
    if config["merge_method"] not in COMPOSED or config.get("tokenizer_source") in recipes:
        return config
    weights: dict[str, float] = {}
    for entry in config["models"]:
        given = _weight(entry)
        if given is None:
            return config
        shares = _shares(config, recipes.get(entry["model"], {}).get("config")) or {entry["model"]: 1.0}
        for name, share in shares.items():
            weights[name] = weights.get(name, 0.0) + given * share
    if [entry["model"] for entry in config["models"]] == [*weights]:
        return config
    others = {k: v for k, v in config["models"][0].get("parameters", {}).items() if k != "weight"}
    models = [{"model": name, "parameters": {**others, "weight": weight}} for name, weight in weights.items()]
    base = str(config.get("base_model"))
    founder = {"base_model": recipes[base]["config"]["base_model"]} if base in recipes else {}
    return {**config, "models": models, **founder}


def _shares(config: Mapping[str, Any], made: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return what part of an offspring each of its parents is, if the same merge made it as is to be made now.

    A parent's weight is divided among its own parents as theirs are to each other; in task arithmetic each of these
    gives as much of its change as the parent took.
    """
    linear = config["merge_method"] == "linear"  # whose base is one of the parents, and has no say
    ignored = {"models", "base_model"} if linear else {"models"}
    if made is None or any(made.get(key) != config.get(key) for key in {*made, *config} - ignored):
        return None
    weights = {entry["model"]: weight for entry in made["models"] if (weight := _weight(entry)) is not None}
    total = sum(weights.values())
    if len(weights) < len(made["models"]) or not total:
        return None
    parameters = config.get("parameters") or {}
    if config["merge_method"] == "task_arithmetic":
        factor = parameters.get("lambda", 1.0)
        if parameters.get("normalize") or not isinstance(factor, int | float):
            return None
        return {name: factor * weight for name, weight in weights.items()}
    if linear and not parameters.get("normalize", True):
        return weights
    return {name: weight / total for name, weight in weights.items()}


def _weight(entry: Mapping[str, Any]) -> float | None:
    weight = entry.get("parameters", {}).get("weight", 1.0)
    return float(weight) if isinstance(weight, int | float) else None
