"""Who descends from whom, and how good each is: the records that strategies choose from. No torch, no files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

Predictor = Callable[[Sequence[str]], Mapping[str, float] | None]


@dataclass(frozen=True)
class Proposal:
    """A merge that a strategy proposes: an unordered set of parents, merged at most once in a run.

    The better parent is written first. Most merge methods take two; `one_shot` hands all founders to one that takes any
    number.
    """

    parents: tuple[str, ...]
    exploration: bool = False
    """Chosen for being unrelated instead of for being good."""

    @property
    def key(self) -> frozenset[str]:
        """What makes two proposals the same: the parents, in any order."""
        return frozenset(self.parents)


@dataclass(frozen=True)
class Model:
    """A founder (generation 0, no parents) or an offspring, from its proposal to its last score."""

    name: str
    generation: int = 0
    parents: tuple[str, ...] = ()
    exploration: bool = False
    source: str | None = None
    """Folder or hub name that a founder came from; None for offspring."""
    surroundings: str | None = None
    """Digest of the files beside a founder's weights; None for offspring, and in journals of earlier versions."""
    recipe: Mapping[str, Any] | None = None
    """How an offspring was merged; None until it was."""
    fingerprint: str | None = None
    """Of the checkpoint's content; None until there is one."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Main metric of each task, ×100."""
    average: float | None = None
    """Weighted mean of `scores`; None until the model has been evaluated."""
    stderr: float | None = None
    """Standard error of `average`."""
    failure: str | None = None
    """Why this candidate can never be a parent: its merge, its weights or its evaluation failed."""

    @property
    def founder(self) -> bool:
        """Whether the user brought this model."""
        return not self.parents

    @property
    def pending(self) -> bool:
        """Whether it still has to be evaluated."""
        return self.average is None and self.failure is None


@dataclass(frozen=True)
class Spent:
    """What a run has cost so far, over all its starts."""

    evaluations: int
    hours: float
    """Of merging, measuring and evaluating."""


@dataclass(frozen=True)
class Population:
    """Every model so far, oldest first, founders included. Immutable: each change is a new population.

    What is looked up more than once (a model by its name, the order by average) is worked out once.
    """

    models: tuple[Model, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    @cached_property
    def _ranked(self) -> list[Model]:
        return sorted(self.eligible(), key=lambda model: -_average(model))

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Model:
        if name in self._by_name:
            return self._by_name[name]
        raise KeyError(f"no model {name!r} in the population of {[model.name for model in self.models]}")

    def add(self, model: Model) -> Population:
        """This population and one more model, the youngest."""
        if model.name in self:
            raise ValueError(f"the population has a model {model.name!r} already")
        return Population((*self.models, model))

    def update(self, name: str, **changes: object) -> Population:
        """This population with fields of one model replaced."""
        changed = self._by_name | {name: replace(self[name], **changes)}  # type: ignore[arg-type]
        return Population(tuple(changed.values()))

    @property
    def generation(self) -> int:
        """The youngest model's generation; 0 while there are founders only."""
        return max((model.generation for model in self.models), default=0)

    def until(self, generation: int) -> Population:
        """The population as it was when `generation` closed."""
        return Population(tuple(model for model in self.models if model.generation <= generation))

    def of_generation(self, generation: int) -> list[Model]:
        """The models that may become parents among those born in `generation`, oldest first."""
        return [model for model in self.eligible() if model.generation == generation]

    def eligible(self) -> list[Model]:
        """The models that may become parents: evaluated, and not failed; oldest first."""
        return [model for model in self.models if model.average is not None and model.failure is None]

    def best(self, k: int) -> list[Model]:
        """S_k: the k best models by average, best first, ties broken by age. All of them where there are fewer."""
        return self._ranked[:k]

    def tops(self, k: int) -> list[list[Model]]:
        """S_k when each generation had closed, the founders first: `until(generation).best(k)` of all, in one walk."""
        born: list[list[Model]] = [[] for _ in range(self.generation + 1)]
        for model in self.eligible():
            born[model.generation].append(model)
        found: list[list[Model]] = []
        for new in born:
            before = found[-1] if found else []
            found.append(Population((*before, *new)).best(k))
        return found

    def better_first(self, names: Iterable[str]) -> tuple[str, ...]:
        """The same names, best average first, ties broken by age: the order of parents within a pair."""
        wanted = set(names)
        return tuple(model.name for model in self._ranked if model.name in wanted)

    def merged(self) -> set[frozenset[str]]:
        """The keys of all pairs that were merged, failed attempts included."""
        return {frozenset(model.parents) for model in self.models if model.parents}

    def gain(self, name: str) -> float | None:
        """Merge gain: the offspring's average minus the mean of its parents' averages; None for founders."""
        model = self[name]
        if model.founder or model.average is None:
            return None
        return model.average - fmean(_average(self[parent]) for parent in model.parents)

    def ancestors(self, name: str) -> list[Model]:
        """Everyone that `name` descends from, oldest first, itself excluded."""
        found: set[str] = set()
        queue = list(self[name].parents)
        while queue:
            parent = queue.pop()
            if parent not in found:
                found.add(parent)
                queue.extend(self[parent].parents)
        return [model for model in self.models if model.name in found]


@dataclass(frozen=True)
class KinshipTable:
    """Kinship of every pair of models that was measured, under one metric."""

    metric: str
    values: Mapping[frozenset[str], float] = field(default_factory=dict)
    larger_is_closer: bool = True
    """True for similarities (pcc, cosine), False for a distance (euclidean)."""
    predictor: Predictor | None = None

    def predicted(self, parents: Sequence[str]) -> Mapping[str, float] | None:
        """Kinship that an offspring of `parents` would have to every measured model, before anything is merged.

        None where the run's merge method does not allow to tell.
        """
        return self.predictor(parents) if self.predictor is not None else None

    def between(self, a: str, b: str) -> float:
        """Kinship of two models; NaN where it was never measured."""
        return self.values.get(frozenset((a, b)), math.nan)

    def mean(self, names: Sequence[str]) -> float:
        """Kinship of n models: the mean over all pairs; NaN for fewer than two, or where one was never measured."""
        pairs = list(itertools.combinations(names, 2))
        return fmean(self.between(a, b) for a, b in pairs) if pairs else math.nan

    def least_related(self, name: str, candidates: Sequence[str]) -> str | None:
        """The candidate least related to `name` (the first of equals); None where no kinship is known."""
        known = [other for other in candidates if not math.isnan(self.between(name, other))]
        sign = 1 if self.larger_is_closer else -1
        return min(known, key=lambda other: sign * self.between(name, other), default=None)

    def closer(self, kinship: float, threshold: float) -> bool:
        """Whether `kinship` is past `threshold`, towards more related. NaN never is."""
        return kinship > threshold if self.larger_is_closer else kinship < threshold


def _average(model: Model) -> float:
    assert model.average is not None, f"{model.name} has not been evaluated"
    return model.average
