"""Offspring of offspring by regression: made from the founders that they descend from, in the shares that they descend.

Merging what the parents changed scales it anew in every generation, and takes their deltas, not the
founders', for inputs; from the founders it measured better (docs/merging.md), and everything is rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPOSED = frozenset({"wudi", "actmat", "regmean"})


def from_founders(config: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the configuration with founders in place of offspring that the same merge made of them.

    A parent's weight is divided among its own parents as theirs are to each other. What another merge made, or one with
    weights that vary over the layers, stays a parent like any other.

    Args:
        config: of a merge, models named as in the population.
        recipes: of the offspring, by name; their own are from founders already.
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
    return {**config, "models": models}


def _shares(config: Mapping[str, Any], made: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return each parent's share of an offspring, if it was made by the same merge as is to be made now."""
    if made is None or any(made.get(key) != config.get(key) for key in {*made, *config} - {"models"}):
        return None
    weights = {entry["model"]: _weight(entry) for entry in made["models"]}
    known = {name: weight for name, weight in weights.items() if weight is not None}
    total = sum(known.values())
    return (
        {name: weight / total for name, weight in known.items()} if known.keys() == weights.keys() and total else None
    )


def _weight(entry: Mapping[str, Any]) -> float | None:
    weight = entry.get("parameters", {}).get("weight", 1.0)
    return float(weight) if isinstance(weight, int | float) else None
