"""The parameters of a trial, as far as they apply beside its other parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Trial

from src.config import Parameter


def suggest(space: Sequence[Parameter], trial: Trial, given: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest every parameter whose conditions hold, in order: a condition looks at those before it.

    Args:
        space: of the sweep.
        trial: whose parameters they become. What was chosen for it before stays as it was.
        given: configuration keys that have their value already: never chosen, but conditions may ask for them.

    Returns:
        The configuration keys that were chosen, with their values.
    """
    chosen: dict[str, Any] = {}
    for parameter in space:
        known = {**given, **chosen}
        if parameter.key not in known and _applies(parameter, known):
            chosen[parameter.key] = _choose(parameter, trial)
    return chosen


def current_values(space: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration's values that lie in the space, by names in the study: what a search must beat."""
    chosen: dict[str, Any] = {}
    for parameter in space:
        value = given.get(parameter.key)
        if _applies(parameter, given) and (value in (parameter.choices or ()) or _is_within(parameter, value)):
            chosen[parameter.name or parameter.key] = value
    return chosen


def _is_within(parameter: Parameter, value: Any) -> bool:
    if parameter.low is None or parameter.high is None or not isinstance(value, int | float):
        return False
    return parameter.low <= value <= parameter.high


def _applies(parameter: Parameter, known: Mapping[str, Any]) -> bool:
    """Return whether the parameter's conditions hold; compared as text, which the command line's values are."""
    return all(str(known.get(key)) in map(str, values) for key, values in parameter.when.items())


def _choose(parameter: Parameter, trial: Trial) -> Any:
    name = parameter.name or parameter.key
    if parameter.choices is not None:
        return trial.suggest_categorical(name, parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    if isinstance(parameter.low, int) and isinstance(parameter.high, int):
        return trial.suggest_int(name, parameter.low, parameter.high, step=int(parameter.step or 1))
    return round(trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step), 12)
