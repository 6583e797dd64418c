"""A mergekit configuration, read as mergekit reads it: which parameter holds for which tensor of which model.

A setting is a number, a gradient (a list of numbers, interpolated over the layers) or a list of filters, the first of
which that is part of the tensor's name counts. A model's own parameters come before those of the whole merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.runtime.errors import UserError
from src.runtime.names import TREATED

Scalar = bool | int | float | str
Place = tuple[str, float]
"""A tensor by its name, and how far its layer is from the first (0, as outside the layers) to the last (1)."""


class NotPredictable(Exception):  # noqa: N818 (a fact about the recipe, not a fault)
    """The offspring of this configuration is not a known combination of its parents; the message says why."""


@dataclass(frozen=True)
class Recipe:
    """The inputs of a merge.

    Attributes:
        method: mergekit's name of the merge method.
        models: the inputs in order, by the names that the configuration gives them, its base model included.
        base: mergekit's `base_model`, or None.
        own: the parameters given to single models.
        shared: the parameters of the whole merge.
        origin: what the merged delta is counted from and then scaled, where the method is a treated one; or None.
    """

    method: str
    models: tuple[str, ...]
    base: str | None
    own: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any]
    origin: str | None = None

    @property
    def others(self) -> tuple[str, ...]:
        """The inputs without the base model of the merge."""
        return tuple(name for name in self.models if name != self.base)

    def number(self, key: str, place: Place, model: str = "", *, default: float | None = None) -> float:
        """Return a model's parameter at a tensor, its own or else that of the whole merge; without a model the latter.

        Raises UserError where there is neither and no default, and where it is no number.
        """
        for scope in (self.own.get(model, {}), self.shared):
            value = evaluate(scope[key], *place) if key in scope else None
            if value is not None:
                try:
                    return float(value)
                except ValueError:
                    raise UserError(f"the parameter {key} of the merge is {value!r}; expected a number") from None
        if default is None:
            raise UserError(f"the merge has no parameter {key} for {place[0]}; expected a number")
        return default

    def flag(self, key: str, place: Place, *, default: bool) -> bool:
        """Return a boolean parameter of the whole merge."""
        value = evaluate(self.shared[key], *place) if key in self.shared else None
        if isinstance(value, str):
            return value.strip().lower() in {"true", "yes", "on", "1"}
        return default if value is None else bool(value)


def read_recipe(config: Mapping[str, Any]) -> Recipe:
    """Read a configuration that lists whole `models`; NotPredictable where it is made of slices or modules."""
    if not config.get("models"):
        raise NotPredictable("only configurations that list whole models are predicted, not slices or modules")
    inputs = [entry if isinstance(entry, Mapping) else {"model": entry} for entry in config["models"]]
    models = [str(entry["model"]) for entry in inputs]
    if len(set(models)) < len(models):
        raise UserError(f"the models to merge are {', '.join(models)}; expected each once")
    base = str(config["base_model"]) if config.get("base_model") else None
    own = {str(entry["model"]): entry.get("parameters") or {} for entry in inputs}
    if base is not None and base not in models:
        models.append(base)
    method, shared = str(config.get("merge_method")), config.get("parameters") or {}
    recipe = Recipe(method, tuple(models), base, own, shared)
    return _inner(recipe) if method.startswith(TREATED) else recipe


def _inner(treated: Recipe) -> Recipe:
    """Return the recipe of the method whose merge is treated; NotPredictable where singular values are calibrated."""
    if treated.shared.get("treatment_svc"):
        raise NotPredictable("calibrated singular values (svc) are no known combination of the parents")
    given, first = treated.shared.get("treatment_base"), treated.others[0]
    return replace(
        treated,
        method=treated.method.removeprefix(TREATED),
        models=treated.models if given == "base" else treated.others,
        base={"base": treated.base, "first": first}.get(str(given)),
        origin=treated.base,
    )


def evaluate(setting: Any, tensor: str, depth: float) -> Scalar | None:
    """Return a setting's value at a place; None where no filter of the setting fits the tensor."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list | tuple):
        return setting
    if any(isinstance(entry, Mapping) for entry in setting):
        fits = (one["value"] for one in setting if one.get("filter") in (None, "*") or one["filter"] in tensor)
        return evaluate(next(fits, None), tensor, depth)
    if not setting:
        return None
    position = depth * (len(setting) - 1)
    low = int(position)
    if any(isinstance(entry, bool) for entry in setting):
        return bool(setting[low])
    high = min(low + 1, len(setting) - 1)
    return (1 - (position - low)) * float(setting[low]) + (position - low) * float(setting[high])
