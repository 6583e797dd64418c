"""What derivatives of scores tell of answers: they are observations of the process, of another kind.

The smooth score of a task is z = Σ_q weight_q softmax(y_q)[gold_q]. At an evaluated recipe e its derivatives by the
weights of all n directions in all B blocks, J = n · B, come from one pass forwards and back over the task's samples.
Near e the answers have to change so that z changes by them: D z(e) = Σ_a s_a D y_a(e), with s_a = ∂z/∂y_a at e.
Derivatives of a Gaussian process are jointly normal with it (Rasmussen and Williams 2006, section 9.4), and all answers
share a kernel, so that whatever their number, one [J, J] system has them all:

    mean(c)_a += v_a s_a / (Σ_a' v_a' s_a'²) · k̂'(c)ᵀ (K̂'' + ε)⁻¹ (g − D μ_z(e))

with g the derivatives that were found, D μ_z those that the process expects, v the answers' variances, and k̂', K̂'' the
first and second derivatives at e of the covariance that the answers have left. The variance stays what it was: a score
is one number of a hundred answers, and the others are as unsure as before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from src.surrogate.kernel import Pairs, factors, noise, read
from src.surrogate.process import Process
from src.surrogate.questions import Questions
from src.surrogate.scoring import Scorer
from src.surrogate.space import Space

_EXACT = 1e-3
"""Of the variance that a derivative has beforehand, what is left to rounding and to the bend of the kernel."""
_LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class Slope:
    """How the expected answers change, for what the derivatives told.

    Attributes:
        process: as it was without them.
        place: float64 [n, B], the recipe where they were taken.
        solved: float64 [E, J], K⁻¹ k'(e) of the evaluated recipes.
        sure: float64 [E], K⁻¹ 1.
        scale: float64 [A], v_a s_a / Σ v s² of the answer's task; 0 where nothing was told.
        told: float64 [J, T], (K̂'' + ε)⁻¹ (g − D μ_z).
        task: int64 [A].
    """

    process: Process
    place: torch.Tensor
    solved: torch.Tensor
    sure: torch.Tensor
    scale: torch.Tensor
    told: torch.Tensor
    task: torch.Tensor

    def shift(self, recipes: torch.Tensor) -> torch.Tensor:
        """Return what is added to the expected answers of recipes [M, n, B]: [M, A]; differentiable."""
        process = self.process
        kernel = Pairs.of(process.space, recipes, process.recipes).kernel(process.hyper)
        left = _first(process.space, process.hyper, recipes, self.place) - kernel @ self.solved
        left = left - (1 - kernel @ self.sure)[:, None] * self.solved.sum(0) / self.sure.sum()
        return (left @ self.told)[:, self.task] * self.scale


def informed(
    process: Process, scorer: Scorer, questions: Questions, model: int, tasks: tuple[str, ...], found: np.ndarray
) -> Process:
    """Return the process that knows the derivatives of scores at one of its recipes, too.

    Args:
        process: fitted to answers; every model answered all questions.
        scorer: of its answers.
        questions: that they are to.
        model: which of the evaluated recipes.
        tasks: of which there are derivatives.
        found: float64 [tasks, n, B], by the weights; scores are from 0 to 1.

    Raises:
        ValueError: a model was asked a part of the questions.
    """
    if not process.known.all():
        raise ValueError("derivatives need models that answered all questions")
    answers = process.answers()[model][None].requires_grad_()
    (steer,) = torch.autograd.grad(scorer.smooth(answers, torch.zeros_like(answers)).sum(), answers)
    chosen = np.repeat(questions.choices > 1, questions.choices)
    task = torch.from_numpy(np.repeat(questions.task, questions.choices))
    given = torch.tensor([name in tasks for name in questions.tasks])
    steer = steer[0] * torch.from_numpy(chosen) * given[task]
    place = process.recipes[model]
    first = _first(process.space, process.hyper, process.recipes, place)
    kernel = Pairs.of(process.space, process.recipes).kernel(process.hyper)
    chol = factors(kernel, noise(process.hyper), process.known)[0]
    solved = torch.cholesky_solve(first, chol)
    sure = torch.cholesky_solve(torch.ones(len(first), 1, dtype=first.dtype), chol)[:, 0]
    second = _second(process.space, process.hyper)
    error = _EXACT * second.diagonal() + _LEAST * second.diagonal().max()
    left = second - first.T @ solved + torch.outer(solved.sum(0), solved.sum(0)) / sure.sum()
    expected = _by_task(process.alpha.T @ first * steer[:, None], task, len(given))
    wanted = torch.zeros_like(expected)
    wanted[[questions.tasks.index(name) for name in tasks]] = torch.from_numpy(found).reshape(len(tasks), -1)
    told = torch.linalg.solve(left + torch.diag(error), (wanted - expected).T * given)
    size = _by_task(process.unit * steer**2, task, len(given))[task]
    scale = torch.where(size > 0, process.unit * steer / torch.where(size > 0, size, 1.0), 0.0)
    return replace(process, slope=Slope(process, place, solved, sure, scale, told, task))


def _by_task(values: torch.Tensor, task: torch.Tensor, count: int) -> torch.Tensor:
    """Return the sums of values [A, …] over the answers of each task."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, task, values)


def _first(space: Space, hyper: torch.Tensor, recipes: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return ∂k(c, e)/∂e [M, J] of recipes c [M, n, B] at a place e [n, B]."""
    weight, linear, reach = read(hyper)
    far = (weight @ space.squares(recipes - place)).clamp_min(0.0)
    bend = (1 - linear) / reach**2 * torch.exp(-far / (2 * reach**2))[:, None]
    here, there = (_pulled(space, hyper, some) for some in (recipes, place[None]))
    return linear * here + bend * (here - there)


def _second(space: Space, hyper: torch.Tensor) -> torch.Tensor:
    """Return ∂²k(e, e')/∂e ∂e' [J, J] where e and e' are one, which is the same everywhere."""
    weight, linear, reach = read(hyper)
    own = torch.eye(len(space.blocks), dtype=torch.float64)
    found = torch.einsum("b,bij,bc->ibjc", weight, space.metric, own)
    return (linear + (1 - linear) / reach**2) * found.flatten(2).flatten(0, 1)


def _pulled(space: Space, hyper: torch.Tensor, recipes: torch.Tensor) -> torch.Tensor:
    """Return the inner products of recipes [M, n, B] with a unit of every weight, [M, J]."""
    weight, _, _ = read(hyper)
    return torch.einsum("b,bij,mjb->mib", weight, space.metric, recipes).flatten(1)
