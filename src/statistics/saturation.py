"""When a population stopped learning, by a changepoint test; what ending there would have saved, and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from src.statistics.correlation import DRAWN

LEAST = 3
"""Merges that a stage has at least: fewer are an accident."""
ALPHA = 0.05
"""The largest p at which a change counts as one."""


@dataclass(frozen=True)
class Saturation:
    """The two stages of an evolution (arXiv 2410.12613, section 3): learning, then saturation."""

    generation: int | None
    """The first generation of the saturated stage; None where no change was found."""
    p: float
    """How often merges in a random order would show as sharp a change anywhere; 1 where there are too few."""
    n: int
    """Merges looked at."""
    gain_before: float = math.nan
    gain_after: float = math.nan
    """Mean |gain| of the merges of either stage, in the gain's unit; NaN where no change was found."""
    kinship_before: float = math.nan
    kinship_after: float = math.nan
    """Mean kinship of the parents in either stage; NaN where no change was found."""


def saturation(
    generation: Sequence[int],
    gain: Sequence[float],
    kinship: Sequence[float],
    *,
    larger_is_closer: bool = True,
    permutations: int = 9999,
    seed: int = 0,
) -> Saturation:
    """Find where an evolution turns from learning to saturation: near-copies are merged, which changes little.

    The rule: every merge gets a score, the rank of its |gain| minus the rank of its parents' kinship, both among all
    merges (of a distance, the rank counts from the far end). The score is high for a merge that learns and low for a
    saturated one. The population saturates at the border between generations that parts the scores best: where the
    standardised difference of the means before and after is largest, with at least LEAST merges on either side. The
    change counts only if merges shuffled at random show as large a difference at their own best border in at most ALPHA
    of the cases, and if |gain| fell and kinship rose. Ranks have no scale and no outliers: the rule is the same for
    every metric and task.

    This is the changepoint test on ranks of Pettitt (1979, Applied Statistics 28:126) with the maximally selected
    standardised statistic of Miller and Siegmund (1982, Biometrics 38:1011), its distribution by permutation. It takes
    one sharp change for granted: of a gradual one it names some generation in the middle.

    Args:
        generation: [n] of each merge, in any order.
        gain: [n] merge gain; the sign is ignored.
        kinship: [n] of the parents. Merges where gain or kinship is NaN are left out.
        larger_is_closer: False for a distance.
        permutations: how many random orders are drawn from `seed`.

    Raises:
        ValueError: the three differ in length.
    """
    generations, size, near = (np.asarray(values, dtype=float) for values in (generation, np.abs(gain), kinship))
    if not generations.shape == size.shape == near.shape or generations.ndim != 1:
        raise ValueError(
            f"generation, gain and kinship should be [n] each, are {generations.shape}, {size.shape}, {near.shape}"
        )
    known = np.isfinite(size) & np.isfinite(near)
    order = np.argsort(generations[known], kind="stable")
    generations, size, near = (values[known][order] for values in (generations, size, near))
    count = len(generations)
    borders = np.array([i for i in range(LEAST, count - LEAST + 1) if generations[i - 1] != generations[i]], dtype=int)
    score = stats.rankdata(size) - stats.rankdata(near if larger_is_closer else -near)
    if not len(borders) or np.ptp(score) == 0:
        return Saturation(None, 1.0, count)
    test = stats.permutation_test(
        (score,),
        lambda scores, axis: _sharpness(scores, borders).max(axis=-1),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=permutations,
        batch=max(1, DRAWN // count),
        rng=seed,
    )
    border = borders[np.argmax(_sharpness(score, borders))]
    gains = float(size[:border].mean()), float(size[border:].mean())
    kinships = float(near[:border].mean()), float(near[border:].mean())
    closer = kinships[1] > kinships[0] if larger_is_closer else kinships[1] < kinships[0]
    if test.pvalue > ALPHA or not closer or gains[1] >= gains[0]:
        return Saturation(None, float(test.pvalue), count)
    return Saturation(int(generations[border]), float(test.pvalue), count, *gains, *kinships)


def _sharpness(scores: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return, of [..., n] scores, the mean before each border minus the mean after it, in standard deviations."""
    count = scores.shape[-1]
    centred = scores - scores.mean(axis=-1, keepdims=True)
    scale = np.sqrt(centred.var(axis=-1, ddof=1, keepdims=True) * borders * (count - borders) / count)
    return centred.cumsum(axis=-1)[..., borders - 1] / scale


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
