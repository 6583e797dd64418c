"""Correlation of two figures of the same merges, with its interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

METHODS = ("pearson", "spearman")
DRAWN = 1 << 20
"""Figures that are drawn at a time: 8 MiB, a few times over."""


@dataclass(frozen=True)
class Correlation:
    """How two figures go together."""

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


def correlate(
    x: Sequence[float],
    y: Sequence[float],
    method: str = "pearson",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Return the correlation of x with y, [n] each; rows where one of them is NaN are left out.

    Args:
        x, y: one figure a merge, in the same order.
        method: one of METHODS.
        level: share of the bootstrap that the interval covers.
        resamples: how many times n rows are drawn with replacement.
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
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(method, math.nan, math.nan, math.nan, math.nan, len(a))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        found = stats.pearsonr(a, b) if method == "pearson" else stats.spearmanr(a, b)
    low, high = _bootstrap(a, b, method, level, resamples, seed)
    return Correlation(method, float(found.statistic), float(found.pvalue), low, high, len(a))


def _bootstrap(
    a: np.ndarray, b: np.ndarray, method: str, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentiles of r over resampled rows; a resample in which nothing varies has no r and is left out."""
    rng, found = np.random.default_rng(seed), []
    for rows in at_once(resamples, len(a)):
        drawn = rng.integers(len(a), size=(rows, len(a)))
        left, right = a[drawn], b[drawn]
        if method == "spearman":
            left, right = stats.rankdata(left, axis=1), stats.rankdata(right, axis=1)
        left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
        lengths = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
        found.append((left * right).sum(axis=1)[lengths > 0] / lengths[lengths > 0])
    low, high = np.quantile(np.clip(np.concatenate(found), -1, 1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def at_once(resamples: int, size: int) -> Iterator[int]:
    """Return how many resamples of so many figures to draw at a time, so that memory does not grow with them."""
    most = max(1, DRAWN // size)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)
