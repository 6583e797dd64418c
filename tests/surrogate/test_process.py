"""The process against a dense one written out in numpy, answer by answer; and where there is little to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.surrogate.kernel import Pairs, noise
from src.surrogate.likelihood import density, gather
from src.surrogate.process import Process, fit
from src.surrogate.space import Space

BLOCKS, DIRECTIONS, MODELS, ANSWERS = 3, 4, 9, 60


def space(seed: int = 0, blocks: int = BLOCKS, directions: int = DIRECTIONS) -> Space:
    deltas = np.random.default_rng(seed).normal(size=(blocks, directions, 7))
    names = tuple(f"d{i}" for i in range(directions)), tuple(f"b{i}" for i in range(blocks))
    return Space(*names, deltas @ deltas.transpose(0, 2, 1))


def family(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Recipes [E, n, B] and answers [E, A] that bend a little."""
    rng = np.random.default_rng(seed)
    recipes = rng.uniform(-0.5, 1.5, size=(MODELS, DIRECTIONS, BLOCKS))
    flat = recipes.reshape(MODELS, -1)
    answers = flat @ rng.normal(size=(flat.shape[1], ANSWERS)) + np.sin(
        flat @ rng.normal(size=(flat.shape[1], ANSWERS))
    )
    return recipes, answers * rng.uniform(0.5, 3, ANSWERS) + rng.normal(size=ANSWERS) * 5


def dense_kernel(process: Process, these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """The kernel as its formula says, pair by pair and block by block."""
    hyper = process.hyper.numpy()
    weight, linear, reach = np.exp(hyper[:-3]), 1 / (1 + np.exp(-hyper[-3])), np.exp(hyper[-2])
    grams = process.space.grams
    length = np.mean([sum(grams[b, i, i] for b in range(len(grams))) for i in range(grams.shape[1])])
    found = np.zeros((len(these), len(those)))
    for m, one in enumerate(these):
        for e, other in enumerate(those):
            inner = sum(weight[b] * one[:, b] @ grams[b] @ other[:, b] for b in range(len(grams))) / length
            apart = one - other
            far = sum(weight[b] * apart[:, b] @ grams[b] @ apart[:, b] for b in range(len(grams))) / length
            found[m, e] = linear * inner + (1 - linear) * np.exp(-far / (2 * reach**2))
    return found


def dense(
    process: Process, recipes: np.ndarray, answers: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and relative variance [M, A] by one dense system an answer, the mean an unknown of the system."""
    noise = np.exp(process.hyper.numpy()[-1]) + 1e-8
    mean, variance = np.zeros((2, len(wanted), answers.shape[1]))
    for a in range(answers.shape[1]):
        there = ~np.isnan(answers[:, a])
        y, size = answers[there, a], there.sum()
        system = np.ones((size + 1, size + 1))
        system[:size, :size] = dense_kernel(process, recipes[there], recipes[there]) + noise * np.eye(size)
        system[size, size] = 0.0
        cross = np.vstack([dense_kernel(process, recipes[there], wanted), np.ones(len(wanted))])
        solved = np.linalg.solve(system, cross)
        mean[:, a] = y @ solved[:size]
        variance[:, a] = np.diag(dense_kernel(process, wanted, wanted)) - (cross * solved).sum(0)
    return mean, variance


@pytest.mark.parametrize("partly", [False, True])
def test_predictions_are_those_of_a_dense_process(partly: bool) -> None:
    recipes, answers = family()
    if partly:
        answers[3:, :20], answers[1, 20:40], answers[5:7, 30:40] = np.nan, np.nan, np.nan
    wanted = np.random.default_rng(1).uniform(-0.5, 1.5, size=(6, DIRECTIONS, BLOCKS))
    process = fit(space(), recipes, answers)
    mean, variance = process.predict(torch.from_numpy(wanted))
    exact, relative = dense(process, recipes, answers, wanted)
    np.testing.assert_allclose(mean.numpy(), exact, rtol=0, atol=1e-8)
    np.testing.assert_allclose((variance / process.unit).numpy(), relative, rtol=0, atol=1e-8)
    assert len(process.known) == (4 if partly else 1)


@pytest.mark.parametrize("partly", [False, True])
def test_left_out_models_are_predicted_as_if_never_seen(partly: bool) -> None:
    recipes, answers = family(2)
    if partly:
        answers[3:, :20] = np.nan
    process = fit(space(), recipes, answers)
    mean, variance = process.leave_one_out()
    for model in range(MODELS):
        others = np.where(np.arange(MODELS)[:, None] == model, np.nan, answers)
        exact, relative = dense(process, recipes, others, recipes[model : model + 1])
        asked = ~np.isnan(answers[model])
        np.testing.assert_allclose(mean[model].numpy()[asked], exact[0][asked], rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            (variance / process.unit)[model].numpy()[asked], relative[0][asked], rtol=0, atol=1e-8
        )


def test_the_likelihood_is_that_of_the_dense_process() -> None:
    """Of each answer: the flat-prior likelihood of Rasmussen and Williams (2.45), the variances at their best."""
    recipes, answers = family(3)
    answers[4:, :25] = np.nan
    groups = np.arange(ANSWERS) % 2
    there = ~np.isnan(answers)
    known = torch.tensor(np.array([there[:, 0], there[:, -1]]))
    part = (np.arange(ANSWERS) >= 25).astype(int)
    offsets = torch.from_numpy(np.where(there, answers - np.nanmean(answers, 0), 0.0))
    models = torch.from_numpy(recipes)
    evidence = gather(Pairs.of(space(), models), offsets, known, part, groups)
    hyper = torch.tensor([0.3, -0.2, 0.1, 0.4, 0.2, -2.0], dtype=torch.float64)
    process = fit(space(), recipes, answers, groups=groups)
    matrix = dense_kernel(replace(process, hyper=hyper), recipes, recipes) + (np.exp(-2) + 1e-8) * np.eye(MODELS)
    squares, freedom, sizes = np.zeros(2), np.zeros(2), 0.0
    for a in range(ANSWERS):
        some = matrix[np.ix_(there[:, a], there[:, a])]
        y, inverse, ones = answers[there[:, a], a], np.linalg.inv(some), np.ones(len(some))
        off = y - ones @ inverse @ y / (ones @ inverse @ ones)
        squares[groups[a]] += off @ inverse @ off
        freedom[groups[a]] += len(y) - 1
        sizes += 0.5 * np.linalg.slogdet(some)[1] + 0.5 * np.log(ones @ inverse @ ones)
    exact = (0.5 * freedom @ np.log(squares / freedom) + sizes) / ANSWERS
    assert float(evidence.loss(hyper)) == pytest.approx(exact, abs=1e-9)
    found = process.hyper.clone().requires_grad_()
    assert torch.autograd.gradcheck(evidence.loss, (found,), atol=1e-5)


def test_hyperparameters_are_those_of_the_largest_posterior_density() -> None:
    recipes, answers = family(4)
    process = fit(space(), recipes, answers)
    offsets = torch.from_numpy(answers - answers.mean(0))
    nothing = np.zeros(ANSWERS, dtype=int)
    evidence = gather(Pairs.of(space(), torch.from_numpy(recipes)), offsets, process.known, nothing, nothing)
    least = float(density(evidence, process.hyper))
    for seed in range(30):
        step = torch.from_numpy(np.random.default_rng(seed).normal(size=len(process.hyper)))
        assert float(density(evidence, process.hyper + 0.05 * step)) > least - 1e-3


def test_answers_that_follow_the_kernel_are_predicted_and_their_uncertainty_is_right() -> None:
    """Drawn from a process of known hyperparameters, most answers lie as far from the prediction as it says."""
    rng = np.random.default_rng(5)
    recipes = rng.uniform(0, 1, size=(40, DIRECTIONS, BLOCKS))
    truth = replace(fit(space(), *family()), hyper=torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -5.0], dtype=torch.float64))
    matrix = dense_kernel(truth, recipes, recipes) + np.exp(-5) * np.eye(40)
    answers = np.linalg.cholesky(matrix) @ rng.normal(size=(40, 2000)) * 3 + 7
    process = fit(space(), recipes[:25], answers[:25])
    mean, variance = process.predict(torch.from_numpy(recipes[25:]))
    total = (variance + float(noise(process.hyper)) * process.unit).numpy()
    z = (answers[25:] - mean.numpy()) / np.sqrt(total)
    assert np.sqrt((z**2).mean()) == pytest.approx(1, abs=0.1)
    assert ((answers[25:] - mean.numpy()) ** 2).mean() < 0.5 * answers[25:].var(0).mean()


def test_each_group_has_its_own_variance() -> None:
    recipes, answers = family()
    groups = (np.arange(ANSWERS) >= 30).astype(int)
    answers[:, 30:] *= 100
    alike, apart = fit(space(), recipes, answers), fit(space(), recipes, answers, groups=groups)
    assert len(alike.unit.unique()) == 1
    assert apart.unit[:30].unique() < apart.unit[30:].unique() / 100


def test_what_was_told_changes_only_how_sure_it_is() -> None:
    recipes, answers = family()
    answers[2:5, :20] = np.nan
    process = fit(space(), recipes, answers)
    rng = np.random.default_rng(7)
    told, wanted = (torch.from_numpy(rng.uniform(-0.5, 1.5, size=(n, DIRECTIONS, BLOCKS))) for n in (2, 5))
    expected = process.predict(told)[0].numpy()
    again = process.told(told)
    exact, relative = dense(process, np.concatenate([recipes, told]), np.vstack([answers, expected]), wanted.numpy())
    mean, variance = again.predict(wanted)
    np.testing.assert_allclose(mean.numpy(), exact, rtol=0, atol=1e-8)
    np.testing.assert_allclose((variance / process.unit).numpy(), relative, rtol=0, atol=1e-8)
    assert (variance <= process.predict(wanted)[1] + 1e-12).all()


def test_predictions_have_their_gradient() -> None:
    recipes, answers = family()
    answers[2:5, :20] = np.nan
    process = fit(space(), recipes, answers[:, 15:25])
    wanted = torch.from_numpy(np.random.default_rng(8).uniform(0, 1, size=(2, DIRECTIONS, BLOCKS))).requires_grad_()
    assert torch.autograd.gradcheck(process.predict, (wanted,))
    assert torch.autograd.gradcheck(process.spread, (wanted,))


def test_the_same_models_give_the_same_process_to_the_bit() -> None:
    first, second = (fit(space(), *family()) for _ in range(2))
    for name in ("hyper", "mean", "alpha", "chol", "unit"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def usable(process: Process, answers: int) -> tuple[np.ndarray, np.ndarray]:
    wanted = torch.from_numpy(np.random.default_rng(9).uniform(0, 1, size=(3, DIRECTIONS, BLOCKS)))
    mean, variance = process.predict(wanted)
    assert mean.shape == variance.shape == (3, answers)
    for found in (mean, variance, *process.leave_one_out(), process.spread(wanted)):
        assert torch.isfinite(found).all()
    assert (variance >= 0).all()
    return mean.numpy(), variance.numpy()


def test_one_model_is_expected_of_all() -> None:
    recipes, answers = family()
    mean, variance = usable(fit(space(), recipes[:1], answers[:1]), ANSWERS)
    np.testing.assert_allclose(mean, np.repeat(answers[:1], 3, 0), atol=1e-9)
    assert (variance > 0).all()


def test_models_of_one_recipe_are_expected_at_their_mean() -> None:
    recipes, answers = family()
    mean, _ = usable(fit(space(), np.repeat(recipes[:1], MODELS, 0), answers), ANSWERS)
    np.testing.assert_allclose(mean, np.repeat(answers.mean(0)[None], 3, 0), atol=1e-6)


def test_directions_of_no_length_are_expected_to_do_nothing() -> None:
    recipes, answers = family()
    nowhere = Space(tuple("abcd"), tuple("xyz"), np.zeros((3, 4, 4)))
    mean, _ = usable(fit(nowhere, recipes, answers), ANSWERS)
    np.testing.assert_allclose(mean, np.repeat(answers.mean(0)[None], 3, 0), atol=1e-6)


def test_answers_that_never_change_are_expected_again() -> None:
    recipes, answers = family()
    mean, variance = usable(fit(space(), recipes, np.repeat(answers[:1], MODELS, 0)), ANSWERS)
    np.testing.assert_allclose(mean, np.repeat(answers[:1], 3, 0), atol=1e-9)
    assert variance.max() < 1e-9


def test_an_answer_that_nobody_gave_is_expected_at_its_groups_mean() -> None:
    recipes, answers = family()
    answers[:, 0] = np.nan
    groups = (np.arange(ANSWERS) >= 30).astype(int)
    mean, variance = usable(fit(space(), recipes, answers, groups=groups), ANSWERS)
    np.testing.assert_allclose(mean[:, 0], answers[:, 1:30].mean(), atol=1e-9)
    assert (variance[:, 0] > variance[:, 1]).all()


def test_no_answers_at_all() -> None:
    recipes, answers = family()
    usable(fit(space(), recipes, answers[:, :0]), 0)
    usable(fit(space(), recipes, np.full_like(answers, np.nan)), ANSWERS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, a: (r[:, :-1], a), "recipes .E, n, B. should be 1 or more of"),
        (lambda r, a: (r[:0], a[:0]), "1 or more"),
        (lambda r, a: (r * np.nan, a), "recipes should be finite"),
        (lambda r, a: (r, a[:-1]), "should have 9 rows"),
        (lambda r, a: (r, a * np.inf), "answers finite or NaN"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[..., tuple], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit(space(), *change(*family()))


@pytest.mark.parametrize("groups", [np.zeros(3, int), np.full(ANSWERS, -1), np.zeros(ANSWERS)])
def test_groups_that_do_not_fit_are_refused(groups: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"groups .A. should be 60 integers"):
        fit(space(), *family(), groups=groups)
