"""How far an average could be off: the samples were drawn, and others would have been answered a little differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Samples = Mapping[str, Mapping[int, float]]
"""Of one model: by task and document, how well it was answered (0 to 1 for an accuracy)."""


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds within which it is likely to be."""

    value: float
    low: float
    high: float
    n: int
    """Samples behind it."""


def average_interval(
    samples: Samples,
    *,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the macro average over tasks, in points (×100), with percentiles of the bootstrap within tasks.

    Args:
        samples: of one model.
        weights: of the tasks in the average; equal where not given.
        level: share of the bootstrap that the interval covers.
        resamples: how many times every task's samples are drawn with replacement.
        seed: of that drawing.

    Raises:
        ValueError: there is no task, or a task without samples.
    """
    values = {task: np.fromiter(scored.values(), dtype=float) for task, scored in samples.items()}
    value, drawn = bootstrap_macro(values, weights, resamples, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(100 * value, 100 * float(low), 100 * float(high), sum(map(len, values.values())))


def bootstrap_macro(
    values: Mapping[str, np.ndarray], weights: Mapping[str, float] | None, resamples: int, seed: int
) -> tuple[float, np.ndarray]:
    """The weighted mean of the tasks' means, and [resamples] of the same over samples drawn again within each task.

    Raises:
        ValueError: there is no task, or a task without samples.
    """
    shares = task_shares(values, weights)
    rng = np.random.default_rng(seed)
    value, drawn = 0.0, np.zeros(resamples)
    for task, scored in values.items():
        # Drawing how often each distinct score comes (right, wrong) is the same as drawing samples, and far quicker.
        distinct, counts = np.unique(scored, return_counts=True)
        times = rng.multinomial(len(scored), counts / len(scored), size=resamples)
        value += shares[task] * float(scored.mean())
        drawn += shares[task] * (times @ distinct) / len(scored)
    return value, drawn


def task_shares(values: Mapping[str, np.ndarray], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Each task's share in the macro average; they add up to 1.

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
