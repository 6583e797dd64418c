"""Groups of runs: those that differ in nothing but their seed are one configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from src.study.compare.runs import Run

IGNORED = ("name", "outputs", "keep", "track.", "workers.", "cache.", "zoo.", "seed", "strategy.seed", "publish.")
"""Keys that make no other configuration: folders, services, and what differs between seeds."""
FIRST = ("strategy.name", "merge.method", "strategy.k", "kinship.metric")
"""Keys that are tried first to distinguish runs."""
BARE = ("strategy.name", "merge.method", "kinship.metric")
"""Keys that a label leaves out: their values speak for themselves."""


@dataclass(frozen=True)
class Configuration:
    """The runs of one configuration, one a seed (or family)."""

    label: str
    """The values of the keys that distinguish it from the others."""
    runs: Mapping[int, Run]
    """By seed."""
    identity: Mapping[str, str]
    """Every setting that defines it, as text."""

    def scores(self, side: str) -> dict[Hashable, float]:
        """Return the best model's average on a side, in points, of each seed that has one."""
        found = {seed: run.average if side == "select" else run.holdout for seed, run in self.runs.items()}
        return {seed: score for seed, score in found.items() if score is not None}


@dataclass(frozen=True)
class Band:
    """A curve over seeds: at each number of evaluations the mean best average, and an interval of the mean."""

    evaluations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    """NaN with a single run."""
    high: tuple[float, ...]


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys of which these runs have more than one value, FIRST in front."""
    keys = {key: None for run in runs for key in run.settings if not key.startswith(("name", "outputs", "zoo.folder"))}
    found = [key for key in keys if len({_text(run, key) for run in runs}) > 1]
    return sorted(found, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))


def distinguishing(runs: Sequence[Run]) -> list[str]:
    """Return as few of the differing keys as distinguish the configurations; strategy and merge method always."""
    keys: list[str] = []
    parts = 1
    for key in differing(runs):
        if key.startswith(IGNORED):
            continue
        finer = len({tuple(_text(run, k) for k in [*keys, key]) for run in runs})
        if finer > parts or key in FIRST[:2]:
            keys, parts = [*keys, key], finer
    return keys


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Group the runs by configuration, in the order of their first runs. Of a repeated seed the first run counts."""
    keys = distinguishing(runs)
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run)), {}).setdefault(int(run.settings["seed"]), run)
    firsts = [(next(iter(group.values())), group) for group in groups.values()]
    return [Configuration(label(run, keys) or run.name, group, _identity(run)) for run, group in firsts]


def differ_only_in(a: Configuration, b: Configuration, groups: Sequence[str]) -> bool:
    """Return whether two configurations differ in nothing but settings under these keys (`strategy`, `merge`)."""
    differ = [key for key in {**a.identity, **b.identity} if a.identity.get(key) != b.identity.get(key)]
    return all(within(key, groups) for key in differ)


def within(key: str, groups: Sequence[str]) -> bool:
    """Return whether a setting lies under one of these keys."""
    return any(f"{key}.".startswith(f"{group}.") for group in groups)


def label(run: Run, keys: Sequence[str]) -> str:
    """Describe the run by its values of these keys; keys that it does not have are left out."""
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: key if ends.count(end) > 1 else end for key, end in zip(keys, ends, strict=True)}
    known = [(key, run.settings[key]) for key in keys if run.settings.get(key) is not None]
    return " ".join(str(value) if key in BARE else f"{short[key]}={value}" for key, value in known)


def band(runs: Sequence[Run], *, above_founder: bool = False, level: float = 0.95) -> Band:
    """Compute best average against evaluations: the mean of these runs, with Student's interval.

    From where every run has a model to where the longest ended; a run that has ended stays as good as it was.

    Args:
        runs: of one configuration, one a seed.
        above_founder: count from each run's best founder: families differ by far more than strategies.
        level: of the interval.
    """
    first, last = max(run.curve[0].evaluations for run in runs), max(run.evaluations for run in runs)
    axis = range(first, last + 1)
    best = [[run.curve[min(n, run.evaluations) - 1].best for n in axis] for run in runs]
    values = np.array(best) - np.array([[run.founder if above_founder else 0.0] for run in runs])
    half = np.full(len(axis), math.nan)
    if len(runs) > 1:
        half = stats.t.ppf((1 + level) / 2, len(runs) - 1) * stats.sem(values)
    mean = values.mean(axis=0)  # of [runs, evaluations]
    return Band(tuple(axis), *(tuple(map(float, line)) for line in (mean, mean - half, mean + half)))


def winners(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by their best models, the best first: one model is one result, however many configurations led to it.

    Within a group the run that needed the fewest evaluations comes first, and stands for all of them.
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (-run.average, run.reached.evaluations)):
        content = run.state.models[run.best].fingerprint or str(run.folder)
        groups.setdefault((content, run.average, run.holdout, run.settings["seed"]), []).append(run)
    return list(groups.values())


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of no values."""
    return fmean(values) if values else math.nan


def _identity(run: Run) -> dict[str, str]:
    return {key: _text(run, key) for key in sorted(run.settings) if not key.startswith(IGNORED)}


def _text(run: Run, key: str) -> str:
    """Return a setting as text, with one name for every seed's embedded family."""
    return json.dumps(run.settings.get(key), sort_keys=True).replace(str(run.settings.get("zoo.folder")), "FAMILY")
