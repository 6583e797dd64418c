"""The macro average over tasks: its bootstrap over samples, and what chance alone would make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

Samples = Mapping[str, Mapping[int, float]]
"""Of one model: by task and document, how well it was answered (0 to 1 for an accuracy)."""
Values = Mapping[str, np.ndarray]
"""Of each task, one figure a sample."""

RESAMPLES = 100_000
"""Resamples of a comparison: a bound of its interval is then known to within 0.01 of the average's standard error."""
LEAST = 10_000
DRAWS = 1 << 26
"""Scores that are drawn one by one at most, some seconds' work; where there are many, resamples give."""
DRAWN = 1 << 22
"""Scores that are drawn at a time."""


def enough(values: Values) -> int:
    """Return how many resamples to draw of these: RESAMPLES, or what DRAWS allow where a metric knows shades."""
    one_by_one = sum(len(scored) for scored in values.values() if not _is_right_or_wrong(scored))
    return min(RESAMPLES, max(LEAST, DRAWS // max(one_by_one, 1)))


def bootstrap_macro(values: Values, shares: Mapping[str, float], resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """Return the weighted mean of the tasks' means, and [resamples] of it over samples redrawn within each task."""
    rng = np.random.default_rng(seed)

    def redraw(scored: np.ndarray, count: int) -> np.ndarray:
        return scored[rng.integers(len(scored), size=(count, len(scored)), dtype=np.int32)].sum(axis=1)

    value, drawn = 0.0, np.zeros(resamples)
    for task, scored in values.items():
        if _is_right_or_wrong(scored):
            sums = _sums(rng, np.array([(scored == step).mean() for step in (-1, 0, 1)]), len(scored), resamples)
        else:
            sums = _in_parts(redraw, scored, resamples)
        value += shares[task] * float(scored.mean())
        drawn += shares[task] * sums / len(scored)
    return value, drawn


def flipped_macro(values: Values, shares: Mapping[str, float], resamples: int, seed: int) -> np.ndarray:
    """Return [resamples] of the weighted mean of the tasks' means, the sign of each sample's figure drawn at random."""
    rng = np.random.default_rng(seed)

    def flip(scored: np.ndarray, count: int) -> np.ndarray:
        turned = rng.integers(2, size=(count, len(scored)), dtype=np.int8)
        return scored.sum() - 2 * (turned @ scored)

    drawn = np.zeros(resamples)
    for task, scored in values.items():
        if _is_right_or_wrong(scored):
            sums = _sums(rng, np.array([0.5, 0, 0.5]), int(np.count_nonzero(scored)), resamples)
        else:
            sums = _in_parts(flip, np.abs(scored), resamples)  # so that both ways round give the same p
        drawn += shares[task] * sums / len(scored)
    return drawn


def _is_right_or_wrong(scored: np.ndarray) -> bool:
    """Return whether a sample is right or wrong, so that two models differ by −1, 0 or 1 there."""
    return bool(np.isin(scored, (-1, 0, 1)).all())


def _sums(rng: np.random.Generator, steps: np.ndarray, count: int, resamples: int) -> np.ndarray:
    """Return [resamples] sums of `count` independent steps of −1, 0 or 1, which come with these chances.

    How often each sum comes is drawn at once, from its exact chance: the steps' own, convolved `count` times.
    """
    size = 2 * count + 1
    chances = np.fft.irfft(np.fft.rfft(steps, size) ** count, size).clip(0)
    times = rng.multinomial(resamples, chances / chances.sum())
    sums = np.repeat(np.arange(-count, count + 1), times)
    rng.shuffle(sums)
    return sums


def _in_parts(draw: Callable[[np.ndarray, int], np.ndarray], scored: np.ndarray, resamples: int) -> np.ndarray:
    """Have so many resamples drawn, DRAWN scores at a time."""
    part = max(1, DRAWN // len(scored))
    return np.concatenate([draw(scored, min(part, resamples - done)) for done in range(0, resamples, part)])


def quantiles(drawn: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return the bounds between which the middle `level` of what was drawn lies, and their Monte-Carlo error.

    Another seed would move a bound by so much: half the distance between the quantiles one standard error of a share
    (√(q (1 − q) / drawn)) below and above it; the larger of the two bounds'.
    """
    tail = (1 - level) / 2
    error = math.sqrt(tail * (1 - tail) / len(drawn))
    around = np.clip([tail, tail - error, tail + error], 0, 1)
    low, high = np.quantile(drawn, around), np.quantile(drawn, 1 - around)
    return float(low[0]), float(high[0]), float(max(low[2] - low[1], high[1] - high[2])) / 2


def task_shares(values: Values, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return each task's share in the macro average; they add up to 1.

    Raises:
        ValueError: there is no task, a task without samples, or one without a weight.
    """
    empty = [task for task, scored in values.items() if not len(scored)]
    if empty or not values:
        raise ValueError(f"the task {empty[0]} has no samples" if empty else "there is no task to average over")
    if weights is None:
        return dict.fromkeys(values, 1 / len(values))
    if lacking := [task for task in values if task not in weights]:
        raise ValueError(f"the task {lacking[0]} has no weight; there are weights of {', '.join(weights)}")
    total = sum(weights[task] for task in values)
    return {task: weights[task] / total for task in values}
