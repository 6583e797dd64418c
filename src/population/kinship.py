"""How related models are, as strategies see it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

Predictor = Callable[[Sequence[str]], Mapping[str, float] | None]
"""Returns the kinship that an offspring of these parents would have to every measured model; None where unknown."""


class Geometry(Protocol):
    """Inner products of what models changed, tensor by tensor: `src.kinship.Grams`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The n models that were measured, without the base."""

    @property
    def tensors(self) -> Sequence[Any]:
        """The T compared tensors, each with `name`, `kind` (attention, mlp, embeddings, norms, other) and `layer`."""

    @property
    def gram(self) -> np.ndarray:
        """float64 [T, n + 1, n + 1]: of the base's weights (row 0) and every model's delta; NaN if never measured."""


@dataclass(frozen=True)
class KinshipTable:
    """Kinship of every pair of models that was measured, under one metric."""

    metric: str
    values: Mapping[frozenset[str], float] = field(default_factory=dict)
    larger_is_closer: bool = True
    """True for similarities (pcc, cosine), False for a distance (euclidean)."""
    predictor: Predictor | None = None
    geometry: Geometry | None = None
    """What kinship follows from, of all measured models; None before the founders were measured."""

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
        """Return the candidate least related to `name` (the first of equals); None where no kinship is known."""
        known = [other for other in candidates if not math.isnan(self.between(name, other))]
        sign = 1 if self.larger_is_closer else -1
        return min(known, key=lambda other: sign * self.between(name, other), default=None)

    def closer(self, kinship: float, threshold: float) -> bool:
        """Return whether `kinship` is past `threshold`, towards more related. NaN never is."""
        return kinship > threshold if self.larger_is_closer else kinship < threshold
