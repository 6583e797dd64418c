"""Runs that differ in nothing but their seed are one configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from src.study.compare.runs import Run

ASIDE = ("name", "outputs", "keep", "track.", "workers.", "cache.", "zoo.", "seed", "strategy.seed", "publish.")
"""Keys that make no other configuration: where things lie, and what differs between seeds."""
FIRST = ("strategy.name", "merge.method", "strategy.k", "kinship.metric")
"""Keys that people think of first: if they tell runs apart, others need not."""
SPOKEN = ("strategy.name", "merge.method", "kinship.metric")
"""Keys whose values say what they are."""


@dataclass(frozen=True)
class Configuration:
    """The runs of one configuration, one a seed (or family)."""

    label: str
    """The values of the keys that tell it from the others."""
    runs: Mapping[int, Run]
    """By seed."""
    identity: Mapping[str, str]
    """Every setting that makes it what it is, as text."""

    @property
    def averages(self) -> dict[Hashable, float]:
        """Best average of each seed, in points."""
        return {seed: run.average for seed, run in self.runs.items()}

    @property
    def holdouts(self) -> dict[Hashable, float]:
        """The best model's average on the holdout, of each seed that has one."""
        return {seed: run.holdout for seed, run in self.runs.items() if run.holdout is not None}


@dataclass(frozen=True)
class Band:
    """A curve over seeds: at each number of evaluations the mean best average, and an interval of the mean."""

    evaluations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    """NaN with a single run."""
    high: tuple[float, ...]


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys of which these runs have more than one value; the ones that people think of first come first."""
    keys = {key: None for run in runs for key in run.settings if not key.startswith(("name", "outputs", "zoo.folder"))}
    found = [key for key in keys if len({_text(run, key) for run in runs}) > 1]
    return sorted(found, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))


def telling(runs: Sequence[Run]) -> list[str]:
    """Return as few of the differing keys as tell the configurations apart.

    `method=ties` tells of its parameters as well.

    Strategy and merge method are always among them, where they differ.
    """
    keys: list[str] = []
    parts = 1
    for key in differing(runs):
        if key.startswith(ASIDE):
            continue
        finer = len({tuple(_text(run, k) for k in [*keys, key]) for run in runs})
        if finer > parts or key in FIRST[:2]:
            keys, parts = [*keys, key], finer
    return keys


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Return the runs by configuration, in the order of their first runs.

    Of a seed that one has twice, the first counts.
    """
    keys = telling(runs)
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run)), {}).setdefault(int(run.settings["seed"]), run)
    found = []
    for group in groups.values():
        first = next(iter(group.values()))
        found.append(Configuration(label(first, keys) or first.name, group, _identity(first)))
    return found


def differ_only_in(a: Configuration, b: Configuration, groups: Sequence[str]) -> bool:
    """Return whether all settings of two configurations are the same but for those under these keys."""
    differ = [key for key in {**a.identity, **b.identity} if a.identity.get(key) != b.identity.get(key)]
    return all(any(f"{key}.".startswith(f"{group}.") for group in groups) for key in differ)


def label(run: Run, keys: Sequence[str]) -> str:
    """Return the run's values of these keys, in a few words; keys that it does not have are left out."""
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: key if ends.count(end) > 1 else end for key, end in zip(keys, ends, strict=True)}
    known = [(key, run.settings[key]) for key in keys if run.settings.get(key) is not None]
    return " ".join(str(value) if key in SPOKEN else f"{short[key]}={value}" for key, value in known)


def band(runs: Sequence[Run], *, gained: bool = False, level: float = 0.95) -> Band:
    """Best average against evaluations: the mean of these runs, with Student's interval.

    From where every run has a model to where the longest ended; a run that has ended stays as good as it was.

    Args:
        runs: of one configuration, one a seed.
        gained: count from each run's best founder instead of from 0. Families differ by far more than strategies.
        level: of the interval.
    """
    first, last = max(run.curve[0].evaluations for run in runs), max(run.evaluations for run in runs)
    axis = range(first, last + 1)
    start = [run.founder if gained else 0.0 for run in runs]
    values = np.array([[_best_after(run, n) - zero for n in axis] for run, zero in zip(runs, start, strict=True)])
    half = np.full(len(axis), math.nan)
    if len(runs) > 1:
        half = stats.t.ppf((1 + level) / 2, len(runs) - 1) * values.std(axis=0, ddof=1) / math.sqrt(len(runs))
    mean = values.mean(axis=0)  # of [runs, evaluations]
    return Band(tuple(axis), *(tuple(map(float, line)) for line in (mean, mean - half, mean + half)))


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return fmean(values) if values else math.nan


def _best_after(run: Run, evaluations: int) -> float:
    return run.curve[min(evaluations, run.evaluations) - 1].best


def _identity(run: Run) -> dict[str, str]:
    return {key: _text(run, key) for key in sorted(run.settings) if not key.startswith(ASIDE)}


def _text(run: Run, key: str) -> str:
    """Return a setting, with the embedded family's folder under one name for every seed."""
    return json.dumps(run.settings.get(key), sort_keys=True).replace(str(run.settings.get("zoo.folder")), "FAMILY")
