"""Which of two is better, and how certain that is: models on the same samples, configurations on the same seeds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from src.statistics.average import Samples, bootstrap_macro, enough, flipped_macro, quantiles, task_shares

EXACT = 14
"""Pairs up to which every assignment of signs is tried (2^14) instead of some drawn at random."""


@dataclass(frozen=True)
class Difference:
    """How much better the first is than the second."""

    difference: float
    """First minus second; above 0 the first is better."""
    low: float
    high: float
    p: float
    """Two-sided, of no difference: how often the pairs would show as large a one with their signs drawn at random."""
    n: int
    """Pairs."""
    resamples: int = 0
    """Drawn for the interval and for p; 0 where nothing was drawn."""
    error: float = 0.0
    """Monte-Carlo error of the bounds: what another seed would move them by. That of p is √(p (1 − p) / resamples)."""


def compare_models(
    first: Samples,
    second: Samples,
    *,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Difference:
    """Return the difference of two models' macro averages on the samples that both have answered, in points (×100).

    Paired, it is far sharper than the difference of two averages: what is hard for both cancels out. The interval has
    the percentiles of the bootstrap over pairs within tasks; p is of the sign-flip test, pair by pair.

    Args:
        first, second: by task and document, how well it was answered. Documents of only one of the two are left out.
        weights: of the tasks in the average; equal where not given.
        level: share of the bootstrap that the interval covers.
        resamples: of the bootstrap, and random signs of the test; None: 100,000, or what takes seconds (see `enough`).
        seed: of both.

    Raises:
        ValueError: the tasks differ, or the two share no sample of one.
    """
    if set(first) != set(second):
        raise ValueError(f"the two were asked other tasks: {', '.join(first)}; {', '.join(second)}")
    pairs = {
        task: np.array([score - second[task][doc] for doc, score in scored.items() if doc in second[task]], dtype=float)
        for task, scored in first.items()
    }
    shares = task_shares(pairs, weights)
    drawings = enough(pairs) if resamples is None else resamples
    value, drawn = bootstrap_macro(pairs, shares, drawings, seed)
    low, high, error = quantiles(100 * drawn, level)
    flipped = flipped_macro(pairs, shares, drawings, seed + 1)
    p = (1 + (np.abs(flipped) >= abs(value) - 1e-12).sum()) / (1 + drawings)
    return Difference(100 * value, low, high, float(p), sum(map(len, pairs.values())), drawings, error)


def compare_configurations(
    first: Mapping[Hashable, float], second: Mapping[Hashable, float], *, level: float = 0.95, seed: int = 0
) -> Difference:
    """Return the mean difference of two configurations over the seeds (or families) that both were run on.

    The interval is Student's: with the few seeds that one can afford, a bootstrap's would be too narrow. p is of the
    sign-flip test: exact up to EXACT pairs, with signs drawn at random from `seed` beyond. With n pairs it is 2 / 2^n
    at least: five seeds never show p < 0.06.

    Args:
        first, second: one figure a seed or family, by its name. Those of only one of the two are left out.
        level: of the interval.
        seed: of the random signs.

    Raises:
        ValueError: the two share fewer than two seeds.
    """
    pairs = np.array([value - second[key] for key, value in first.items() if key in second], dtype=float)
    if len(pairs) < 2:
        raise ValueError(f"a comparison needs two seeds that both were run on, there are {len(pairs)}")
    value = float(pairs.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(pairs) - 1) * stats.sem(pairs))
    test = stats.permutation_test(
        (pairs,),
        lambda signed, axis: signed.mean(axis=axis).round(9),  # sums that are equal but for rounding are equal
        permutation_type="samples",
        n_resamples=2**EXACT,
        rng=seed,
    )
    return Difference(value, value - half, value + half, float(test.pvalue), len(pairs))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust the p values of several comparisons: if none is real, one falls below α with a chance of at most α.

    Holm's step-down method (1979, Scandinavian Journal of Statistics 6:65), in the order given; it asks nothing of how
    the comparisons depend on each other. NaN, of what could not be tested, stays NaN and does not count.

    Raises:
        ValueError: a value outside 0 to 1.
    """
    if wrong := [p for p in p_values if p < 0 or p > 1]:
        raise ValueError(f"{wrong[0]} is no p value; expected 0 to 1")
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(np.asarray(p_values)[known], kind="stable")]
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return tuple(adjusted.tolist())
