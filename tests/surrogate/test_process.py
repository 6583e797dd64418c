"""The process against a dense one written out in numpy, answer by answer; and what it does where there is little to know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
