"""What ending an evolution earlier would have saved, and what it would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EarlyStop:
    """A run, had it ended earlier."""

    generation: int | None
    """The last generation that would have been merged; None where the rule never held, so that nothing is saved."""
    saved: int
    """Merges (and as many evaluations) that would not have been made."""
    merges: int
    """All that were made."""
    best: float
    """The best average there is."""
    best_then: float
    """The best average that there would have been; never above `best`."""

    @property
    def cost(self) -> float:
        """What the stop would have cost in best average, in points: 0 or more."""
        return self.best - self.best_then

    @property
    def share(self) -> float:
        """The share of the merges that would have been saved, 0 to 1."""
        return self.saved / self.merges if self.merges else 0.0


def stop_after(
    generation: Sequence[int], average: Sequence[float], last: int | None, *, founders: Sequence[float] = ()
) -> EarlyStop:
    """Evaluate an end after the generation `last`; None: no earlier end.

    Args:
        generation: [n] of every merge.
        average: [n] its average; NaN for one that failed, which was paid for all the same.
        last: the generation to stop after.
        founders: averages of the models that were there before.

    Raises:
        ValueError: generation and average differ in length, or no average is known.
    """
    generations, averages = np.asarray(generation, dtype=float), np.asarray(average, dtype=float)
    if generations.shape != averages.shape or generations.ndim != 1:
        raise ValueError(f"generation and average should be [n] each, are {generations.shape} and {averages.shape}")
    late = np.zeros(len(generations), dtype=bool) if last is None else generations > last
    reached = [*averages[np.isfinite(averages)].tolist(), *founders]
    early = [*averages[np.isfinite(averages) & ~late].tolist(), *founders]
    if not early:
        raise ValueError("no average is known before the stop; was there a model to begin with?")
    return EarlyStop(last, int(late.sum()), len(generations), max(reached), max(early))


def early_stop(
    generation: Sequence[int],
    average: Sequence[float],
    kinship: Sequence[float],
    *,
    threshold: float,
    patience: int = 2,
    larger_is_closer: bool = True,
    founders: Sequence[float] = (),
) -> EarlyStop:
    """Evaluate a stop on kinship, after `patience` generations in a row past the threshold.

    Args:
        generation, average, founders: as for `stop_after`.
        kinship: [n] of its parents, or of the k best at the time; a generation counts by the mean of what is known.
        threshold: above it (below it, for a distance) a generation is saturated.
        patience: generations in a row, 1 or more.
        larger_is_closer: False for a distance.

    Raises:
        ValueError: the three differ in length, or no average is known.
    """
    generations, near = np.asarray(generation, dtype=float), np.asarray(kinship, dtype=float)
    if generations.shape != near.shape:
        raise ValueError(f"generation and kinship should be [n] each, are {generations.shape} and {near.shape}")
    row = 0
    for one in np.unique(generations):
        known = near[(generations == one) & np.isfinite(near)]
        past = len(known) > 0 and (known.mean() > threshold if larger_is_closer else known.mean() < threshold)
        row = row + 1 if past else 0
        if row == patience:
            return stop_after(generation, average, int(one), founders=founders)
    return stop_after(generation, average, None, founders=founders)
