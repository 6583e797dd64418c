"""From answers to scores: what predicted answers are worth, under the uncertainty of the prediction.

With independent normal answers of means μ and variance σ² each, the right choice g has the largest with probability

    P = ∫ φ(x) Π_{j ≠ g} Φ((μ_g − μ_j) / σ + x) dx

which Gauss-Hermite quadrature gives to 1e-6: no draws, no noise, and as little memory as answers need.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from src.surrogate.questions import Questions

NODES = 16
"""Of the quadrature."""

_CHUNK = 1 << 21
"""Numbers that a step of the quadrature may hold at a time."""
_LEAST = 1e-9
"""Standard deviation of answers that are certain: ties share, all else is decided."""


def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights, float64 [NODES] each: a function's weighted sum is its mean over a normal deviate."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / math.sqrt(2 * math.pi)


class Scorer:
    """Scores by task from answers [M, A], or from their means and variances: [M, T], 0 to 1.

    The answers of a question that has choices are taken as `Questions.centred` leaves them, without their mean, which
    takes 1/C of the variance of C of them; those of one question share a variance, as a process gives them.
    """

    def __init__(self, questions: Questions) -> None:
        """Prepare for these questions."""
        columns = np.arange(int(questions.choices.max(initial=1)))
        there = columns < questions.choices[:, None]
        self._places = torch.from_numpy(np.where(there, questions.first[:, None] + columns, questions.first[:, None]))
        self._there = torch.from_numpy(there)  # [Q, C]
        self._first = torch.from_numpy(questions.first)
        self._gold = torch.from_numpy(questions.gold)[:, None]
        self._alone = torch.from_numpy(questions.choices == 1)
        self._widen = torch.from_numpy(questions.choices / np.maximum(questions.choices - 1.0, 1.0))
        self._task = torch.from_numpy(questions.task)
        self._weight = torch.from_numpy(questions.weight)
        self._tasks = len(questions.tasks)
        self._nodes, self._shares = map(torch.from_numpy, quadrature())

    def smooth(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Return the expected probability of the right choice by task, [M, T]: smooth enough to climb on.

        What is uncertain shrinks towards even odds (MacKay 1992's probit approximation of an expected sigmoid).
        """
        spread = variance[:, self._first] * self._widen
        chosen = mean[:, self._places] / torch.sqrt(1 + math.pi / 8 * 2 * spread)[..., None]
        odds = torch.log_softmax(chosen.masked_fill(~self._there, -torch.inf), dim=-1)
        right = odds.gather(-1, self._gold.expand(len(mean), -1, 1))[..., 0].exp()
        return self._by_task(torch.where(self._alone, mean[:, self._first], right))

    def expected(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Return the expected share of right choices by task, [M, T]."""
        deviation = (variance[:, self._first] * self._widen).sqrt().clamp_min(_LEAST)
        rows, step = [], max(1, _CHUNK // (self._places.shape[1] * NODES))
        for one, spread in zip(mean, deviation, strict=True):
            parts = [self._right(one, spread, slice(at, at + step)) for at in range(0, len(self._first), step)]
            rows.append(torch.cat(parts) if parts else one.new_zeros(0))
        right = torch.stack(rows)
        return self._by_task(torch.where(self._alone, mean[:, self._first].clamp(0.0, 1.0), right))

    def found(self, answers: torch.Tensor) -> torch.Tensor:
        """Return the share of right choices by task, [M, T], of answers that are known; NaN for those not asked."""
        chosen = answers[:, self._places].masked_fill(~self._there, -torch.inf).argmax(-1)
        right = (chosen == self._gold[:, 0]).to(answers.dtype)
        given = answers[:, self._first]
        return self._by_task(torch.where(self._alone | given.isnan(), given, right))

    def _right(self, mean: torch.Tensor, deviation: torch.Tensor, some: slice) -> torch.Tensor:
        """Return the probability that each of some questions is answered rightly, [q]."""
        answers, gold = mean[self._places[some]], self._gold[some]
        ahead = (answers.gather(1, gold) - answers) / deviation[some, None]
        others = self._there[some] & (torch.arange(answers.shape[1]) != gold)
        behind = torch.special.ndtr(ahead[..., None] + self._nodes).masked_fill(~others[..., None], 1.0)
        return behind.prod(1) @ self._shares

    def _by_task(self, right: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of [M, Q] over each task's questions that are not NaN; NaN where there are none."""
        asked = ~right.isnan()
        empty = right.new_zeros(len(right), self._tasks)
        total = empty.index_add(1, self._task, torch.where(asked, right, 0.0) * self._weight)
        return total / empty.index_add(1, self._task, asked.to(right.dtype) * self._weight)
