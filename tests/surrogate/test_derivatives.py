"""Derivatives of scores as observations: against a dense system of answers and derivatives, and what they are for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from src.surrogate.derivatives import informed
from src.surrogate.process import Process, fit
from src.surrogate.questions import Questions
from src.surrogate.scoring import Scorer
from tests.surrogate.test_process import BLOCKS, DIRECTIONS, space

CHOICES, PER_TASK, TASKS = 3, 8, ("one", "two")
PLACE = 2


def questions() -> Questions:
    count = PER_TASK * len(TASKS)
    task = np.repeat(np.arange(len(TASKS)), PER_TASK)
    ids = tuple((TASKS[which], number) for number, which in enumerate(task.tolist()))
    first, choices = CHOICES * np.arange(count), np.full(count, CHOICES)
    return Questions(TASKS, task, np.full(count, 1 / PER_TASK), first, choices, np.arange(count) % CHOICES, ids)


class Truth:
    """Answers that are a smooth function of the recipe: linear, and a little bent."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        size = DIRECTIONS * BLOCKS, questions().answers
        self.flat, self.bent = (torch.from_numpy(rng.normal(size=size)) for _ in range(2))
        self.recipes = rng.uniform(-0.5, 1.5, size=(6, DIRECTIONS, BLOCKS))

    def answers(self, recipes: torch.Tensor) -> torch.Tensor:
        found = recipes.flatten(1) @ self.flat + 0.3 * torch.sin(recipes.flatten(1) @ self.bent)
        split = found.unflatten(1, (-1, CHOICES))
        return (split - split.mean(-1, keepdim=True)).flatten(1)

    def process(self) -> Process:
        known = self.answers(torch.from_numpy(self.recipes)).numpy()
        return fit(space(), self.recipes, known, groups=np.repeat(questions().task, CHOICES))

    def derivatives(self, scorer: Scorer) -> np.ndarray:
        """Of the scores of both tasks by the recipe, at PLACE."""

        def scores(recipe: torch.Tensor) -> torch.Tensor:
            answers = self.answers(recipe[None])
            return scorer.smooth(answers, torch.zeros_like(answers))[0]

        found = torch.autograd.functional.jacobian(scores, torch.from_numpy(self.recipes[PLACE]))
        assert isinstance(found, torch.Tensor)
        return found.numpy()


def slopes(process: Process, scorer: Scorer) -> np.ndarray:
    """Derivatives of the scores of what the process expects, at PLACE."""

    def scores(recipe: torch.Tensor) -> torch.Tensor:
        mean, variance = process.predict(recipe[None])
        return scorer.smooth(mean, torch.zeros_like(variance))[0]

    found = torch.autograd.functional.jacobian(scores, process.recipes[PLACE])
    assert isinstance(found, torch.Tensor)
    return found.numpy()


def test_what_is_expected_rises_as_the_scores_were_found_to_and_stays_where_it_was_known() -> None:
    truth, scorer = Truth(), Scorer(questions())
    before = truth.process()
    found = truth.derivatives(scorer)
    after = informed(before, scorer, questions(), PLACE, TASKS, found)
    assert np.abs(slopes(before, scorer) - found).max() > 0.1 * np.abs(found).max()
    assert slopes(after, scorer) == pytest.approx(found, abs=0.02 * np.abs(found).max())
    known, variance = after.predict(after.recipes)
    unmoved = before.predict(before.recipes)[0]
    assert known.numpy() == pytest.approx(unmoved.numpy(), abs=0.02 * float(unmoved.abs().max()))
    assert torch.equal(variance, before.predict(before.recipes)[1])


def test_scores_near_the_place_are_predicted_better() -> None:
    off = {False: 0.0, True: 0.0}
    for seed in range(5):
        truth, scorer = Truth(seed), Scorer(questions())
        plain = truth.process()
        told = informed(plain, scorer, questions(), PLACE, TASKS, truth.derivatives(scorer))
        steps = 0.2 * np.random.default_rng(seed).normal(size=(50, DIRECTIONS, BLOCKS))
        near = torch.from_numpy(truth.recipes[PLACE] + steps)
        exact = scorer.smooth(truth.answers(near), torch.zeros(50, questions().answers, dtype=torch.float64))
        for knows, process in ((False, plain), (True, told)):
            mean, variance = process.predict(near)
            off[knows] += float(((scorer.smooth(mean, torch.zeros_like(variance)) - exact) ** 2).mean())
    assert off[True] < 0.5 * off[False]


def test_it_is_what_one_dense_system_of_answers_and_derivatives_has() -> None:
    """The covariances of derivatives by automatic differentiation of the kernel, and every answer apart."""
    from src.surrogate.derivatives import _EXACT, _LEAST
    from src.surrogate.kernel import Pairs, noise

    truth, scorer = Truth(), Scorer(questions())
    process, found = truth.process(), truth.derivatives(scorer)[:1]
    after = informed(process, scorer, questions(), PLACE, TASKS[:1], found)
    wanted = torch.from_numpy(truth.recipes[:2] + 0.3)
    shape, place = (DIRECTIONS, BLOCKS), torch.from_numpy(truth.recipes[PLACE])

    def kernel(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        pairs = Pairs.of(process.space, one.reshape(-1, *shape), other.reshape(-1, *shape))
        return pairs.kernel(process.hyper)

    jacobian: Callable[..., Any] = torch.autograd.functional.jacobian

    def by_place(one: torch.Tensor, *, keep: bool = False) -> torch.Tensor:
        found: torch.Tensor = jacobian(lambda at: kernel(one, at)[:, 0], place, create_graph=keep)
        return found.flatten(1)

    apart = jacobian(lambda at: by_place(at, keep=True)[0], place + 1e-9).flatten(1)
    answers = process.answers()[PLACE][None].requires_grad_()
    (steer,) = torch.autograd.grad(scorer.smooth(answers, torch.zeros_like(answers))[:, 0].sum(), answers)
    models, mine = len(process.recipes), np.flatnonzero(questions().task.repeat(CHOICES) == 0)
    unit, steer = process.unit[mine], steer[0, mine]
    size = float((unit * steer**2).sum())
    # unknowns: every answer's mean; observations: the answers of all models, and the derivatives of their sum
    observed = torch.cat([process.answers()[:, mine].T.flatten(), torch.from_numpy(found[0]).flatten()])
    count, slopes_ = len(mine) * models, found[0].size
    covariance = torch.zeros(count + slopes_, count + slopes_, dtype=torch.float64)
    plain = kernel(process.recipes, process.recipes) + noise(process.hyper) * torch.eye(models)
    cross = by_place(process.recipes)
    ones = torch.zeros(count + slopes_, len(mine), dtype=torch.float64)
    towards = torch.zeros(len(wanted), len(mine), count + slopes_, dtype=torch.float64)
    for number, (own, part) in enumerate(zip(unit, steer, strict=True)):
        rows = slice(number * models, (number + 1) * models)
        covariance[rows, rows] = own * plain
        covariance[rows, count:], covariance[count:, rows] = own * part * cross, (own * part * cross).T
        ones[rows, number] = 1
        towards[:, number, rows] = own * kernel(wanted, process.recipes)
        towards[:, number, count:] = own * part * by_place(wanted)
    diagonal = apart.diagonal()
    covariance[count:, count:] = size * (apart + torch.diag(_EXACT * diagonal + _LEAST * diagonal.max()))
    inverse = torch.linalg.inv(covariance)
    mean = torch.linalg.solve(ones.T @ inverse @ ones, ones.T @ inverse @ observed)
    expected = mean + towards @ inverse @ (observed - ones @ mean)
    assert after.predict(wanted)[0][:, mine].numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    others = np.setdiff1d(np.arange(questions().answers), mine)
    assert torch.equal(after.predict(wanted)[0][:, others], process.predict(wanted)[0][:, others])


def test_parts_of_the_questions_are_refused() -> None:
    truth, scorer = Truth(), Scorer(questions())
    known = truth.answers(torch.from_numpy(truth.recipes)).numpy()
    known[1, : CHOICES * PER_TASK] = np.nan
    process = fit(space(), truth.recipes, known)
    with pytest.raises(ValueError, match="answered all questions"):
        informed(process, scorer, questions(), PLACE, TASKS, truth.derivatives(scorer))
