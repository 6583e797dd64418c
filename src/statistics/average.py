"""The macro average over tasks, and its bootstrap over samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Samples = Mapping[str, Mapping[int, float]]
"""Of one model: by task and document, how well it was answered (0 to 1 for an accuracy)."""


def bootstrap_macro(
    values: Mapping[str, np.ndarray], shares: Mapping[str, float], resamples: int, seed: int
) -> tuple[float, np.ndarray]:
    """Return the weighted mean of the tasks' means, and [resamples] of it over samples redrawn within each task."""
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
