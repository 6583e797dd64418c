"""The geometry of recipes against deltas themselves, and what is no geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.surrogate.space import Space

DELTAS = np.random.default_rng(0).normal(size=(3, 4, 50))
"""Of 3 blocks and 4 directions."""
NAMES = tuple("abcd"), tuple("xyz")


def space() -> Space:
    return Space(*NAMES, DELTAS @ DELTAS.transpose(0, 2, 1))


def delta(recipe: np.ndarray) -> np.ndarray:
    """What a recipe [n, B] adds to the base, block after block."""
    return np.concatenate([recipe[:, block] @ DELTAS[block] for block in range(3)])


def test_distances_are_those_of_the_deltas_in_lengths_of_a_direction() -> None:
    rng = np.random.default_rng(1)
    these, those = rng.normal(size=(5, 4, 3)), rng.normal(size=(2, 4, 3))
    length = np.sqrt((DELTAS**2).sum() / len(NAMES[0]))
    exact = [[np.linalg.norm(delta(one) - delta(other)) / length for other in those] for one in these]
    found = space().distances(torch.from_numpy(these), torch.from_numpy(those))
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-9)


def test_inner_products_are_those_of_the_deltas() -> None:
    recipes = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 4, 3)))
    inner = space().inner(recipes, recipes)
    summed = inner.sum(0) / inner.sum(0)[0, 0]
    vectors = np.stack([delta(recipe) for recipe in recipes.numpy()])
    np.testing.assert_allclose(summed.numpy(), vectors @ vectors.T / (vectors[0] @ vectors[0]), atol=1e-9)
    np.testing.assert_allclose(space().squares(recipes).numpy(), inner.diagonal(dim1=1, dim2=2).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("grams", "words"),
    [
        (np.zeros((2, 4, 4)), r"should be \(3, 4, 4\), is \(2, 4, 4\)"),
        (np.full((3, 4, 4), np.nan), "was not measured"),
        (-np.eye(4)[None].repeat(3, 0), "without negative eigenvalues"),
        (np.triu(np.ones((3, 4, 4))), "symmetric"),
    ],
)
def test_what_is_no_geometry_is_refused(grams: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Space(*NAMES, grams)
