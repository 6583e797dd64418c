"""Recipes: a weight for every parent in every block of the model, as a merge that mergekit makes, and can make again.

The model is base + Σ c[i, b] · δ[i, b], where δ[i, b] is what parent i changed in the tensors of block b: mergekit's
task arithmetic, with a weight for each parent that filters by tensor name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from src.population import Geometry, Model, Population, Prediction, Proposal

Division = Literal["whole", "part", "layer"]
"""One weight for the whole model; one for embeddings, norms, attention and MLP; the last two for every layer."""
FineDivision = Literal["whole", "part", "layer", "tensor"]
"""These, or one for every tensor, whose filter is its whole name: too many for a search that has no gradient."""

DIGITS = 4
"""Decimals of a weight: fewer than any difference that is felt, and a recipe that can be read."""
_PLAIN = {"merge_method", "models", "parameters", "base_model", "dtype", "out_dtype", "tokenizer_source"}
"""What a merge of whole models says; what says more is treated afterwards, or made of slices."""
_ORDER = ("embeddings", "other", "norms", "attention", "mlp")


@dataclass(frozen=True)
class Blocks:
    """The parts of a model that have a weight of their own.

    Attributes:
        names: of the B blocks; the first takes every tensor that no filter picks.
        members: the block of each of the T tensors.
        filters: for each block, substrings of tensor names, as mergekit filters, which pick its tensors and no others;
            none for the first.
        tensors: names of the T tensors.
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    filters: tuple[tuple[str, ...], ...]
    tensors: tuple[str, ...] = ()

    @classmethod
    def of(cls, division: FineDivision, geometry: Geometry | None) -> Blocks:
        """Divide the tensors of a family; before they are known, the whole model is the only block.

        Raises:
            ValueError: two tensors of different blocks that no filter tells apart.
        """
        tensors = geometry.tensors if geometry is not None else ()
        if division == "whole" or not tensors:
            return cls(("whole",), (0,) * len(tensors), ((),), tuple(tensor.name for tensor in tensors))
        if division == "tensor":
            return cls._of_tensors([tensor.name for tensor in tensors])
        keys = [_block(division, tensor.kind, tensor.layer) for tensor in tensors]
        order = sorted(set(keys), key=lambda key: (_ORDER.index(key[0]), key[1]))
        members = tuple(order.index(key) for key in keys)
        names = [tensor.name for tensor in tensors]
        filters = [_filters(names, members, block) if block else () for block in range(len(order))]
        shown = tuple(f"{kind} {layer}" if layer >= 0 else kind for kind, layer in order)
        return cls(shown, members, tuple(filters), tuple(names))

    @classmethod
    def _of_tensors(cls, names: Sequence[str]) -> Blocks:
        if both := next(((a, b) for a in names[1:] for b in names if a != b and a in b), None):
            raise ValueError(f"no filter tells {both[0]} from {both[1]}; use larger blocks")
        return cls(tuple(names), tuple(range(len(names))), ((), *((name,) for name in names[1:])), tuple(names))

    @property
    def by_tensor(self) -> dict[str, int]:
        """The block of every tensor by name."""
        return dict(zip(self.tensors, self.members, strict=True))

    def setting(self, weights: Sequence[float]) -> float | list[dict[str, Any]]:
        """Return the weights [B] of one parent as mergekit takes them: a number, or filters and their values."""
        values = [round(float(weight), DIGITS) + 0.0 for weight in weights]
        if len(set(values)) == 1:
            return values[0]
        chosen = [
            {"filter": one, "value": value}
            for value, filters in zip(values[1:], self.filters[1:], strict=True)
            for one in filters
            if value != values[0]
        ]
        return [*chosen, {"value": values[0]}]

    def weights(self, setting: Any) -> np.ndarray | None:
        """Return the weights [B] that a setting gives one parent; None where it is none of ours.

        It may have been made for other blocks, as long as every tensor of a block gets the same weight.
        """
        if isinstance(setting, int | float):
            return np.full(len(self.names), float(setting))
        if not isinstance(setting, list) or not all(isinstance(one, Mapping) for one in setting):
            return None
        known = [(one.get("filter") or "", one.get("value")) for one in setting]
        if "" not in dict(known) or not all(isinstance(value, int | float) for _, value in known):
            return None
        found = np.full(len(self.names), np.nan)
        for name, block in self.by_tensor.items():
            weight = next(value for one, value in known if one in name)  # the first filter that matches, as in mergekit
            if not np.isnan(found[block]) and found[block] != weight:
                return None
            found[block] = weight
        return found

    def grams(self, geometry: Geometry, names: Sequence[str]) -> np.ndarray:
        """Return the inner products of models' deltas, block by block: float64 [B, n, n]."""
        rows = [1 + geometry.names.index(name) for name in names]
        inner = geometry.gram[:, rows][:, :, rows]
        found = np.zeros((len(self.names), len(rows), len(rows)))
        np.add.at(found, list(self.members), inner)
        return found


def weighted(
    population: Population, weights: Mapping[str, Sequence[float]], blocks: Blocks, predicted: Prediction | None = None
) -> Proposal:
    """Return the proposal of a recipe: weights [B] of every parent by name; parents without any are left out."""
    settings = {name: blocks.setting(given) for name, given in weights.items()}
    parents = population.better_first(name for name, setting in settings.items() if setting != 0)
    parents = parents or population.better_first(settings)[:1]
    merge = {
        "method": "task_arithmetic",
        "base_model": "ancestor",
        "parameters": {"lambda": 1.0, "normalize": False},
        "each": [{"weight": settings[name]} for name in parents],
    }
    return Proposal(parents, merge=merge, predicted=predicted)


def weights_of(model: Model, directions: Sequence[str], blocks: Blocks) -> np.ndarray | None:
    """Return a model's recipe, float64 [n, B]; None where it is no weighted sum of these directions.

    A direction's own is 1 for itself. Of what the run's own merge made, its configuration is read.
    """
    found = np.zeros((len(directions), len(blocks.names)))
    if model.name in directions:
        found[directions.index(model.name)] = 1.0
        return found
    for parent, setting in settings_of(model).items():
        given = blocks.weights(setting)
        if parent not in directions or given is None:
            return None
        found[directions.index(parent)] = given
    return found if model.parents and settings_of(model) else None


def merge_of(model: Model) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return whom an offspring was made from, its parents or their founders, and the merge that makes it again.

    None where it was not made, or otherwise than by one merge of whole models.
    """
    if model.merge is not None:
        each = model.merge.get("each") or [{}] * len(model.parents)
        return model.parents, {"parameters": {}, **model.merge, "each": each}
    config = dict((model.recipe or {}).get("config") or {})
    if "models" not in config or config.keys() - _PLAIN:
        return None
    parents = tuple(one["model"] for one in config["models"])
    bases = {None: None, "base": "ancestor", parents[0]: "parent"}
    if (base := config.get("base_model")) not in bases:
        return None
    merge = {
        "method": config["merge_method"],
        "base_model": bases[base],
        "parameters": config.get("parameters") or {},
        "each": [one.get("parameters") or {} for one in config["models"]],
    }
    return parents, merge


def settings_of(model: Model) -> dict[str, Any]:
    """Return the weight of every parent in a merge that adds deltas to the base; {} for any other."""
    known = merge_of(model)
    if known is None:
        return {}
    parents, merge = known
    method, parameters = merge["method"], merge["parameters"]
    ancestor = merge.get("base_model") == "ancestor"
    each = dict(zip(parents, merge["each"], strict=True))
    settings = {name: given.get("weight", parameters.get("weight", 1.0)) for name, given in each.items()}
    if method == "task_arithmetic" and ancestor and not parameters.get("normalize"):
        factor = parameters.get("lambda", 1.0)
        if factor == 1:
            return settings
        plain = isinstance(factor, int | float) and all(isinstance(one, int | float) for one in settings.values())
        return {name: factor * one for name, one in settings.items()} if plain else {}
    if method == "linear" and all(isinstance(one, int | float) for one in settings.values()):
        total = sum(settings.values()) if parameters.get("normalize", True) else 1.0
        return {name: one / total for name, one in settings.items()} if total else {}
    return {}


def _block(division: FineDivision, kind: str, layer: int | None) -> tuple[str, int]:
    by_layer = division == "layer" and layer is not None and kind in {"attention", "mlp"}
    return kind, layer if by_layer and layer is not None else -1


def _filters(names: Sequence[str], members: Sequence[int], block: int) -> tuple[str, ...]:
    """Return the fewest substrings found that pick this block's tensors and no others, longest reach first."""
    missing = {name for name, member in zip(names, members, strict=True) if member == block}
    others = [name for name, member in zip(names, members, strict=True) if member != block]
    pieces = {piece for name in missing for piece in _pieces(name)}
    sound = sorted(piece for piece in pieces if not any(piece in other for other in others))
    chosen: list[str] = []
    while missing:
        best = max(sound, key=lambda piece: (sum(piece in name for name in missing), -len(piece)), default="")
        picked = {name for name in missing if best and best in name}
        if not picked:
            raise ValueError(f"no filter tells {min(missing)} from the tensors of other blocks")
        chosen.append(best)
        missing -= picked
    return tuple(chosen)


def _pieces(name: str) -> set[str]:
    """Return the runs of a name's dotted parts, with the dots around them: `layers.1.` is no part of `layers.11.`."""
    parts = name.split(".")
    return {
        "." * (first > 0) + ".".join(parts[first:last]) + "." * (last < len(parts))
        for first in range(len(parts))
        for last in range(first + 1, len(parts) + 1)
    }
