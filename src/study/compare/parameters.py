"""What was varied between configurations, and which of it matters for the best average."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.study.compare.configurations import IGNORED, Configuration, differing, mean_of
from src.study.compare.runs import Run

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST = 10
"""Configurations below which nothing is said about parameters."""
TOP = 5
"""Configurations that count as the best ones, at least: PED-ANOVA's own advice."""
CHOICES = 6
"""Values up to which numbers count as choices."""


@dataclass(frozen=True)
class Parameters:
    """Values of what was varied, by configuration, and what they led to."""

    values: Mapping[str, Sequence[str | None]]
    """By key, the most important first; None where a configuration has no such setting."""
    scores: Sequence[float]
    """Mean over a configuration's runs, in points above the best founder: families differ by far more."""
    importance: Mapping[str, float]
    """By key, 0 to 1; they add up to 1. What the best configurations have in common weighs most: conditional PED-ANOVA
    (Watanabe et al., arXiv 2304.10255, and arXiv 2601.20800) as Optuna computes it."""


def parameters(found: Sequence[Configuration]) -> Parameters | None:
    """Return what was varied between these configurations; None where they are too few, or all as good."""
    runs = [next(iter(one.runs.values())) for one in found]
    scores = [mean_of([run.average - run.founder for run in one.runs.values()]) for one in found]
    values = _varied(runs)
    if len(found) < LEAST or not values or len(set(scores)) < 2:
        return None
    importance = _importance(values, scores)
    return Parameters({key: values[key] for key in importance}, scores, importance)


def number(value: str | None) -> float | None:
    """Return the number that a value is; None where it is a word."""
    try:
        return float(value or "")
    except ValueError:
        return None


def _varied(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return the keys of more than one value, with each run's."""
    chosen = [_chosen(run) for run in runs]
    if all(one is not None for one in chosen):
        keys = dict.fromkeys(key for one in chosen for key in one or ())
        columns = {key: [(one or {}).get(key) for one in chosen] for key in keys}
    else:
        keys = dict.fromkeys(differing(runs))
        columns = {key: [_text(run.settings.get(key)) for run in runs] for key in keys}
    found: dict[str, list[str | None]] = {}
    for key, column in columns.items():
        parts = [column.index(value) for value in column]
        same = any(parts == [other.index(value) for value in other] for other in found.values())
        if not key.startswith((*IGNORED, "sweep")) and len(set(column)) > 1 and not same:
            found[key] = column
    return found


def _chosen(run: Run) -> dict[str, str] | None:
    """Return what a trial of a study was started with, which tells what applies to it; None for other runs."""
    command = next((one["provenance"].get("command") for one in run.state.starts if one.get("provenance")), None)
    words = shlex.split(command or "")
    if not any(word.startswith("++sweep.trial=") for word in words):
        return None
    pairs = (word.partition("=") for word in words if "=" in word)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _importance(values: Mapping[str, Sequence[str | None]], scores: Sequence[float]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {key: _distribution(column) for key, column in values.items()}
    study = optuna.create_study(direction="maximize")
    for place, score in enumerate(scores):
        known = {key: column[place] for key, column in values.items() if column[place] is not None}
        params = {
            key: value if isinstance(kinds[key], optuna.distributions.CategoricalDistribution) else number(value)
            for key, value in known.items()
        }
        distributions = {key: kinds[key] for key in params}
        study.add_trial(optuna.trial.create_trial(value=score, params=params, distributions=distributions))
    top = min(0.9, max(0.1, TOP / len(scores)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value that one trial has: the page says that few trials tell little
        return optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top),
            params=list(values),
        )


def _distribution(column: Sequence[str | None]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = sorted({value for value in column if value is not None})
    numbers = [one for value in known if (one := number(value)) is not None]
    if len(numbers) == len(known) > CHOICES:
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(known)
