"""A Gaussian process over answers: one kernel, that of kinship, for thousands of outputs.

All answers share the kernel k of recipes, so E evaluated models cost one Cholesky factorisation of K = k + noise,
[E, E],
whatever the number A of answers (Rasmussen and Williams 2006, equations 2.25, 2.26 and, for the mean, 2.41 and 2.42):

    mean(c)     = m + k(c)ᵀ K⁻¹ (Y − m)                                                   [A]
    variance(c) = v · [k(c, c) − k(c)ᵀ K⁻¹ k(c) + (1 − 1ᵀ K⁻¹ k(c))² / (1ᵀ K⁻¹ 1)]

m is each answer's generalised least-squares mean, v the variance of its group. Where models answered only some of the
questions, the answers fall into parts that the same models gave: a factorisation each, the hyperparameters shared.

GPyTorch's batched outputs and scikit-learn's regressor factorise and predict variances output by output, or know
neither a mean of each output nor parts, and BoTorch's KroneckerMultiTaskGP learns the [A, A] covariance of the outputs;
none has the likelihood through Y Yᵀ. `python -m benchmarks.surrogate` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from src.surrogate.kernel import Pairs, factors, noise, precisions
from src.surrogate.likelihood import gather, likeliest
from src.surrogate.space import Space

if TYPE_CHECKING:
    from src.surrogate.derivatives import Slope


@dataclass(frozen=True, eq=False)
class Process:
    """What is expected of every recipe, given the answers of a few.

    Attributes:
        space: of the recipes.
        recipes: float64 [E, n, B], the evaluated ones.
        hyper: float64 [B + 3]: log block weights, logit of the linear share, log length scale, log noise.
        known: bool [P, E], the models that gave the answers of each part.
        part: int [A], the part of each answer.
        unit: float64 [A], each answer's variance v.
        mean: float64 [A], each answer's mean m.
        alpha: float64 [E, A], K⁻¹ (Y − m); 0 where a model was not asked.
        chol: float64 [P, E, E], lower Cholesky factors of K; rows of the identity for models that were not asked.
        slope: what derivatives told, too; None where there are none.
    """

    space: Space
    recipes: torch.Tensor
    hyper: torch.Tensor
    known: torch.Tensor
    part: torch.Tensor
    unit: torch.Tensor
    mean: torch.Tensor
    alpha: torch.Tensor
    chol: torch.Tensor
    slope: Slope | None = None

    def predict(self, recipes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean [M, A] and the variance [M, A] of the answers of recipes [M, n, B]; differentiable."""
        pairs = Pairs.of(self.space, recipes, self.recipes)
        variance = self._relative(pairs)[:, self.part] * self.unit
        mean = self.mean + pairs.kernel(self.hyper) @ self.alpha
        return mean if self.slope is None else mean + self.slope.shift(recipes), variance

    def spread(self, recipes: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of the answers of recipes [M, n, B] over their own, on average: [M]."""
        shares = torch.bincount(self.part, minlength=len(self.known)).double() / max(1, len(self.part))
        return (self._relative(Pairs.of(self.space, recipes, self.recipes)) @ shares).clamp_min(1e-12).sqrt()

    def answers(self) -> torch.Tensor:
        """Return the answers [E, A] that the process was fitted to; NaN where a model was not asked."""
        smooth = self.mean + Pairs.of(self.space, self.recipes).kernel(self.hyper) @ self.alpha
        return torch.where(self.known.T[:, self.part], smooth + noise(self.hyper) * self.alpha, torch.nan)

    def leave_one_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean [E, A] and the variance [E, A] of each evaluated model's answers as the others predict them.

        The hyperparameters stay (equation 5.12, for an estimated mean: Dubrule 1983). Where a model was not asked, or
        nobody else was, they are predicted from all models.
        """
        mean, variance = self.predict(self.recipes)
        precision = precisions(self.chol, self.known).diagonal(dim1=1, dim2=2)  # [P, E]
        asked = (self.known & (self.known.sum(1, keepdim=True) > 1))[self.part].T  # [E, A]
        precision = torch.where(asked, precision[self.part].T, 1.0)
        without = self.answers() - self.alpha / precision
        spread = (1 / precision - noise(self.hyper)).clamp_min(0.0) * self.unit
        return torch.where(asked, without, mean), torch.where(asked, spread, variance)

    def told(self, recipes: torch.Tensor) -> Process:
        """Return the process that has seen recipes [N, n, B] answer just as it expects: only its variance is less."""
        known = torch.cat([self.known, self.known.new_ones(len(self.known), len(recipes))], 1)
        every = torch.cat([self.recipes, recipes])
        chol = factors(Pairs.of(self.space, every).kernel(self.hyper), noise(self.hyper), known)
        alpha = torch.cat([self.alpha, self.alpha.new_zeros(len(recipes), self.alpha.shape[1])])
        return replace(self, recipes=every, known=known, chol=chol, alpha=alpha)

    def _relative(self, pairs: Pairs) -> torch.Tensor:
        """Return the variance [M, P] of recipes, in units of each answer's own, where they answer the parts."""
        known = self.known[:, :, None].double()
        solved = torch.linalg.solve_triangular(self.chol, pairs.kernel(self.hyper).T * known, upper=False)  # [P, E, M]
        ones = torch.linalg.solve_triangular(self.chol, known, upper=False)  # [P, E, 1]
        sure = (ones**2).sum((1, 2))[:, None]
        slack = (1 - (solved * ones).sum(1)) ** 2 / torch.where(sure > 0, sure, 1.0)
        return (pairs.itself(self.hyper) - (solved**2).sum(1) + slack).clamp_min(0.0).T


def fit(
    space: Space,
    recipes: np.ndarray,
    answers: np.ndarray,
    groups: np.ndarray | None = None,
    hyper: torch.Tensor | None = None,
) -> Process:
    """Fit the process to evaluated models.

    An answer that no model gave is expected to be the mean of its group, with the variance of a model far from all.

    Args:
        space: of the recipes.
        recipes: [E, n, B], 1 or more.
        answers: [E, A], NaN where a model was not asked.
        groups: int [A], 0 or more: answers of one group (a task) share a variance. None: all share one.
        hyper: float64 [B + 3], as `Process.hyper`; None: the likeliest are learned.

    Raises:
        ValueError: shapes that do not fit together; a recipe or an answer that is not finite.
    """
    models = torch.from_numpy(np.array(recipes, dtype=float))
    values = np.asarray(answers, dtype=float)
    if models.shape[1:] != space.shape or not len(models):
        raise ValueError(f"recipes [E, n, B] should be 1 or more of {space.shape}, is {tuple(models.shape)}")
    if values.ndim != 2 or len(values) != len(models):
        raise ValueError(f"answers [E, A] should have {len(models)} rows, is {values.shape}")
    if not torch.isfinite(models).all() or np.isinf(values).any():
        raise ValueError("recipes should be finite, answers finite or NaN")
    there = ~np.isnan(values)
    group = np.zeros(values.shape[1], dtype=np.int64) if groups is None else np.asarray(groups)
    if group.shape != values.shape[1:] or group.dtype.kind not in "iu" or (group < 0).any():
        raise ValueError(f"groups [A] should be {values.shape[1]} integers, 0 or more, is {group.dtype} {group.shape}")
    patterns, part = _parts(there)
    centre = _centre(values, there, group)
    offsets = torch.from_numpy(np.where(there, values - centre, 0.0))
    seen = torch.from_numpy(patterns)
    pairs = Pairs.of(space, models)
    evidence = gather(pairs, offsets, seen, part, group)
    hyper = likeliest(evidence) if hyper is None else hyper
    chol = factors(pairs.kernel(hyper), noise(hyper), seen)
    mean, alpha = _solved(chol, seen, offsets, part)
    unit = evidence.variances(chol)[torch.from_numpy(group)]
    return Process(
        space, models, hyper, seen, torch.from_numpy(part), unit, torch.from_numpy(centre) + mean, alpha, chol
    )


def _parts(there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of bool [E, A] without repeats, as [P, E], and which of them each answer has, [A]."""
    if there.all():
        return np.ones((1, len(there)), dtype=bool), np.zeros(there.shape[1], dtype=np.int64)
    packed = np.ascontiguousarray(np.packbits(there, axis=0).T)
    _, first, part = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return there[:, first].T.copy(), part.reshape(-1)


def _centre(values: np.ndarray, there: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean [A] of each answer over the models that gave it; that of its group where nobody did."""
    given, total = there.sum(0), np.where(there, values, 0.0).sum(0)
    all_given = np.bincount(group, given, minlength=1)
    of_group = np.bincount(group, total, minlength=1) / np.maximum(all_given, 1)
    return np.where(given > 0, total / np.maximum(given, 1), of_group[group])


def _solved(
    chol: torch.Tensor, known: torch.Tensor, offsets: torch.Tensor, part: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each answer's mean m [A] and K⁻¹ (Y − m) [E, A], of answers Y [E, A] that are 0 where not known."""
    mean, alpha = torch.zeros(offsets.shape[1], dtype=torch.float64), torch.zeros_like(offsets)
    for place, (factor, models) in enumerate(zip(chol, known, strict=True)):
        columns = torch.from_numpy(np.flatnonzero(part == place))
        some = offsets if len(chol) == 1 else offsets[:, columns]
        ones = models.double()[:, None]
        weights = torch.cholesky_solve(ones, factor)[:, 0] * ones[:, 0]
        means = weights @ some / weights.sum() if models.any() else some.new_zeros(some.shape[1])
        mean[columns], alpha[:, columns] = means, torch.cholesky_solve(some - ones * means, factor)
    return mean, alpha
