"""Correlation of two figures of the same merges, with its interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from src.statistics.average import quantiles
from src.statistics.comparison import holm

METHODS = ("pearson", "spearman")
DRAWN = 1 << 20
"""Figures that are drawn at a time: 8 MiB, a few times over."""
RESAMPLES = 10_000
LEAST = 2000
DRAWS = 1 << 21
"""Rows that are drawn at most, a second's work: of many merges fewer resamples are enough."""


@dataclass(frozen=True)
class Correlation:
    """Correlation of two figures."""

    method: str
    """pearson (along a line) or spearman (along any rising or falling curve)."""
    r: float
    """-1 to 1; NaN where one of the two never changes."""
    p: float
    """Two-sided, of r = 0; NaN where r is."""
    low: float
    high: float
    """Bounds of the interval: percentiles of the bootstrap over rows."""
    n: int
    """Rows, without those where one of the two is not known."""
    resamples: int
    """Drawn for the interval."""
    error: float
    """Monte-Carlo error of its bounds: what another seed would move them by; NaN where r is."""


def correlate(
    x: Sequence[float],
    y: Sequence[float],
    method: str = "pearson",
    *,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Correlation:
    """Return the correlation of x with y, [n] each; rows where one of them is NaN are left out.

    Args:
        x, y: one figure a merge, in the same order.
        method: one of METHODS.
        level: share of the bootstrap that the interval covers. A resample in which nothing varies is left out of it.
        resamples: how many times n rows are drawn with replacement; None: RESAMPLES, or what DRAWS allow.
        seed: of that drawing.

    Raises:
        ValueError: x and y differ in length, fewer than three rows are known, or the method is not known.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"x and y should be [n] each, are {a.shape} and {b.shape}")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3:
        raise ValueError(f"a correlation needs three rows or more, there are {len(a)}")

    def test(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        if method == "spearman":
            a, b = stats.rankdata(a, axis=axis), stats.rankdata(b, axis=axis)
        return stats.pearsonr(a, b, axis=axis)

    def r(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return test(a, b, axis).statistic

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of figures that never change
        found = test(a, b)
        batch = max(1, DRAWN // len(a))
        count = min(RESAMPLES, max(LEAST, DRAWS // len(a))) if resamples is None else resamples
        drawn = stats.bootstrap((a, b), r, n_resamples=count, batch=batch, paired=True, method="percentile", rng=seed)
        known = drawn.bootstrap_distribution[np.isfinite(drawn.bootstrap_distribution)]
        low, high, error = quantiles(known, level) if len(known) else (math.nan,) * 3
    return Correlation(method, float(found.statistic), float(found.pvalue), low, high, len(a), count, error)


@dataclass(frozen=True)
class Relation:
    """Correlation of a metric of the parents' kinship with merge gain."""

    metric: str
    target: str
    """gain or |gain|."""
    found: Correlation
    adjusted: float
    """Its p, adjusted for all that were asked for together (Holm)."""


def relations(metrics: Mapping[str, Sequence[float]], gain: Sequence[float]) -> list[Relation]:
    """Correlate each metric [n] with gain [n] and its size, by each of METHODS."""
    targets = {"gain": gain, "|gain|": [*map(abs, gain)]}
    found = [
        (metric, target, correlate(kinship, values, method))
        for method in METHODS
        for metric, kinship in metrics.items()
        for target, values in targets.items()
    ]
    adjusted = holm([one.p for *_, one in found])
    return [Relation(*one, p) for one, p in zip(found, adjusted, strict=True)]
