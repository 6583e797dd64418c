"""Scores from answers: against draws, against what is known, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.surrogate.objectives import average, normalised, worst
from src.surrogate.questions import Questions
from src.surrogate.scoring import Scorer


def questions(seed: int = 0, count: int = 40) -> Questions:
    """Questions of 1 to 5 choices in three tasks, weighted at random."""
    rng = np.random.default_rng(seed)
    task, choices = np.arange(count) % 3, rng.integers(1, 6, count)
    weight = rng.uniform(0.5, 2, count)
    weight = weight / np.bincount(task, weight)[task]
    first = np.cumsum(choices) - choices
    ids = tuple((f"task {one}", place) for place, one in enumerate(task))
    return Questions(("a", "b", "c"), task, weight, first, choices, rng.integers(0, choices), ids)


def predicted(asked: Questions, seed: int = 1, models: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and variances [M, A], the variance the same for all answers of a question."""
    rng = np.random.default_rng(seed)
    mean = asked.centred(rng.normal(size=(models, asked.answers)))
    mean[:, asked.first[asked.choices == 1]] = rng.uniform(size=(models, (asked.choices == 1).sum()))
    variance = np.repeat(rng.uniform(0.05, 2, size=(models, len(asked.task))), asked.choices, axis=1)
    return torch.from_numpy(mean), torch.from_numpy(variance)


def by_task(asked: Questions, right: np.ndarray) -> np.ndarray:
    return np.stack([(right * asked.weight)[:, asked.task == task].sum(1) for task in range(3)], 1)


def test_what_was_found_is_the_weighted_share_of_right_answers() -> None:
    asked = questions()
    answers = predicted(asked)[0]
    right = np.zeros((len(answers), len(asked.task)))
    for m, row in enumerate(answers.numpy()):
        for q, (first, choices, gold) in enumerate(zip(asked.first, asked.choices, asked.gold, strict=True)):
            some = row[first : first + choices]
            right[m, q] = some[0] if choices == 1 else some.argmax() == gold
    np.testing.assert_allclose(Scorer(asked).found(answers).numpy(), by_task(asked, right), atol=1e-12)


def test_a_model_asked_a_part_is_scored_by_that_part() -> None:
    asked = questions()
    answers = predicted(asked)[0]
    lacking = np.repeat((np.arange(len(asked.task)) % 4 == 0) | (asked.task == 2), asked.choices)
    partly = torch.where(torch.from_numpy(lacking), torch.nan, answers)
    found = Scorer(asked).found(partly).numpy()
    assert np.isnan(found[:, 2]).all()
    keep = (np.arange(len(asked.task)) % 4 > 0) & (asked.task == 0)
    whole = Scorer(asked).found(answers)
    assert not np.allclose(found[:, :2], whole[:, :2])
    one = answers.numpy()[1]
    right = [
        one[first] if choices == 1 else float(one[first : first + choices].argmax() == gold)
        for first, choices, gold in zip(asked.first[keep], asked.choices[keep], asked.gold[keep], strict=True)
    ]
    assert found[1, 0] == pytest.approx(np.average(right, weights=asked.weight[keep]))


def test_expected_scores_are_those_of_draws() -> None:
    asked = questions()
    mean, variance = predicted(asked)
    rng = np.random.default_rng(0)
    sums, draws = 0.0, 4000
    widen = np.repeat(asked.choices / np.maximum(asked.choices - 1, 1), asked.choices)  # centring took 1/C of it
    for _ in range(draws):
        drawn = mean.numpy() + np.sqrt(variance.numpy() * widen) * rng.normal(size=mean.shape)
        drawn[:, asked.first[asked.choices == 1]] = mean[:, asked.first[asked.choices == 1]]
        sums = sums + Scorer(asked).found(torch.from_numpy(drawn)).numpy() / draws
    np.testing.assert_allclose(Scorer(asked).expected(mean, variance).numpy(), sums, atol=0.01)


def test_two_choices_have_a_closed_form() -> None:
    asked = Questions(("t",), np.zeros(1, int), np.ones(1), np.zeros(1, int), np.array([2]), np.array([1]), (("t", 0),))
    for gap, variance in ((0.3, 0.5), (-1.0, 0.1), (3.0, 4.0)):
        mean = torch.tensor([[-gap / 2, gap / 2]], dtype=torch.float64)
        spread = torch.full((1, 2), variance, dtype=torch.float64)
        exact = torch.special.ndtr(torch.tensor(gap / np.sqrt(2 * 2 * variance)))
        assert float(Scorer(asked).expected(mean, spread)) == pytest.approx(float(exact), abs=1e-6)


def test_certain_answers_are_scored_as_found_and_ties_are_shared() -> None:
    asked = questions()
    mean, _ = predicted(asked)
    scorer = Scorer(asked)
    torch.testing.assert_close(scorer.expected(mean, torch.zeros_like(mean)), scorer.found(mean))
    share = np.where(asked.choices > 1, 1 / asked.choices, 0.0)[None]
    even = scorer.expected(torch.zeros_like(mean[:1]), torch.zeros_like(mean[:1]))
    np.testing.assert_allclose(even.numpy(), by_task(asked, share), atol=1e-5)


def test_smooth_scores_are_probabilities_that_uncertainty_shrinks_towards_even_odds() -> None:
    asked = questions()
    mean, variance = predicted(asked)
    scorer = Scorer(asked)
    right = np.zeros((len(mean), len(asked.task)))
    for q, (first, choices, gold) in enumerate(zip(asked.first, asked.choices, asked.gold, strict=True)):
        some = mean.numpy()[:, first : first + choices]
        right[:, q] = some[:, 0] if choices == 1 else (np.exp(some) / np.exp(some).sum(1, keepdims=True))[:, gold]
    np.testing.assert_allclose(scorer.smooth(mean, torch.zeros_like(mean)).numpy(), by_task(asked, right), atol=1e-12)
    right[:, asked.choices > 1] = (1 / asked.choices)[asked.choices > 1]
    np.testing.assert_allclose(scorer.smooth(mean, variance * 1e8).numpy(), by_task(asked, right), atol=1e-3)


def test_smooth_and_expected_scores_have_their_gradients() -> None:
    asked = questions(count=9)
    mean, variance = predicted(asked, models=2)
    for score in (Scorer(asked).smooth, Scorer(asked).expected):
        assert torch.autograd.gradcheck(score, (mean.requires_grad_(), variance.requires_grad_()), atol=1e-5)


def test_fifty_thousand_answers_of_many_recipes_fit_into_little_memory() -> None:
    count = 12_500
    task, choices = np.arange(count) % 3, np.full(count, 4)
    weight = 1 / np.bincount(task)[task]
    ids = tuple(("t", place) for place in range(count))
    asked = Questions(("a", "b", "c"), task, weight, np.arange(count) * 4, choices, np.zeros(count, int), ids)
    scorer = Scorer(asked)
    mean = torch.from_numpy(asked.centred(np.random.default_rng(0).normal(size=(40, asked.answers))))
    with torch.profiler.profile(profile_memory=True) as profiled, torch.no_grad():
        scorer.expected(mean, torch.ones_like(mean))
    at_once = peak([event.cpu_memory_usage for event in profiled.events()])
    assert at_once < 12 * mean.nbytes


def peak(changes: list[int]) -> int:
    return max(changes)


def test_objectives() -> None:
    scores = torch.tensor([[0.5, 1.0, 0.25], [0.0, 0.5, 0.75]], dtype=torch.float64)
    assert average([1, 1, 2])(scores).tolist() == [0.5, 0.5]
    assert normalised([1.0, 0.5, 0.5])(scores).tolist() == pytest.approx([1.0, 2.5 / 3])
    assert worst()(scores).tolist() == [0.25, 0.0]


@pytest.mark.parametrize("wrong", [[], [1.0, -1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_objectives_refuse_what_weighs_nothing(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"of the tasks should|weights should"):
        average(wrong)
    with pytest.raises(ValueError, match="of the tasks should be above 0"):
        normalised(wrong)


def test_objectives_refuse_other_tasks() -> None:
    with pytest.raises(ValueError, match="there are 3 tasks, and numbers of 2"):
        average([1, 1])(torch.zeros(1, 3, dtype=torch.float64))
