"""What a search is to raise: differentiable functions from scores by task [M, T], 0 to 1, to a figure a model [M]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Objective = Callable[[torch.Tensor], torch.Tensor]
"""From scores by task [M, T], 0 to 1, to what is to be as large as possible, [M]."""


def average(weights: Sequence[float]) -> Objective:
    """Return the mean of the tasks' scores, weighted by weights [T], 0 or more.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """
    shares = _positive("weights", weights, least=0.0)
    if shares.sum() == 0:
        raise ValueError("the tasks' weights should not all be 0")
    shares = shares / shares.sum()
    return lambda scores: scores @ _fitting(shares, scores)


def normalised(best: Sequence[float]) -> Objective:
    """Return the mean share that is kept of the best score [T] that a specialist has in each task (skills kept).

    Raises:
        ValueError: a best score is 0, negative or not finite.
    """
    goals = _positive("best scores", best, least=1e-12)
    return lambda scores: (scores / _fitting(goals, scores)).mean(-1)


def worst() -> Objective:
    """Return the score of the worst task."""
    return lambda scores: scores.amin(-1)


def _positive(what: str, numbers: Sequence[float], least: float) -> torch.Tensor:
    found = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    if not len(found) or not torch.isfinite(found).all() or (found < least).any():
        raise ValueError(f"{what} of the tasks should be {'above 0' if least else '0 or more'}, are {found.tolist()}")
    return found


def _fitting(numbers: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if len(numbers) != scores.shape[-1]:
        raise ValueError(f"there are {scores.shape[-1]} tasks, and numbers of {len(numbers)}")
    return numbers
