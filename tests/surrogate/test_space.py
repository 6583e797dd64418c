"""The geometry of recipes against deltas themselves, and what is no geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.surrogate.space import Space

DELTAS = np.random.default_rng(0).normal(size=(3, 4, 50))
"""Of 3 blocks and 4 directions."""
NAMES = tuple("abcd"), tuple("xyz")


def space(free: tuple[bool, ...] = ()) -> Space:
    return Space(*NAMES, DELTAS @ DELTAS.transpose(0, 2, 1), free)


def delta(recipe: np.ndarray) -> np.ndarray:
    """What a recipe [n, B] adds to the base, block after block."""
    return np.concatenate([recipe[:, block] @ DELTAS[block] for block in range(3)])


def test_distances_are_those_of_the_deltas_in_lengths_of_a_direction() -> None:
    rng = np.random.default_rng(1)
    these, those = rng.normal(size=(5, 4, 3)), rng.normal(size=(2, 4, 3))
    length = np.sqrt(np.mean([(delta(space().single(name)) ** 2).sum() for name in NAMES[0]]))
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


def test_recipes_of_one_and_of_all_directions() -> None:
    assert space().single("c", 2.0)[2].tolist() == [2.0] * 3
    assert space().single("c").sum() == 3
    assert space().mixed([1, 2, 3, 4])[:, 1].tolist() == [1, 2, 3, 4]


def test_anchors_do_not_set_the_unit_of_length() -> None:
    grams = DELTAS @ DELTAS.transpose(0, 2, 1)
    grams[:, 3], grams[:, :, 3] = grams[:, 3] * 10, grams[:, :, 3] * 10
    free = Space(tuple("abc"), NAMES[1], grams[:, :3, :3])
    anchored = Space(*NAMES, grams, (True, True, True, False))
    torch.testing.assert_close(anchored.metric[:, :3, :3], free.metric)


def test_an_anchor_that_is_a_merge_of_the_others_is_found_again_without_it() -> None:
    mixture = np.array([0.5, 0.25, 1.0])
    deltas = np.concatenate([DELTAS[:, :3], np.einsum("i,bik->bk", mixture, DELTAS[:, :3])[:, None]], 1)
    anchored = Space(*NAMES, deltas @ deltas.transpose(0, 2, 1), (True, True, True, False))
    found = anchored.freed(anchored.single("d", 2.0))
    np.testing.assert_allclose(found, np.append(2 * mixture, 0)[:, None].repeat(3, 1), atol=1e-9)
    kept = anchored.single("a")
    assert anchored.freed(kept) is not kept
    np.testing.assert_array_equal(anchored.freed(kept), kept)


@pytest.mark.parametrize(
    ("grams", "free", "words"),
    [
        (np.zeros((2, 4, 4)), (), r"should be \(3, 4, 4\), is \(2, 4, 4\)"),
        (np.full((3, 4, 4), np.nan), (), "was not measured"),
        (-np.eye(4)[None].repeat(3, 0), (), "without negative eigenvalues"),
        (np.triu(np.ones((3, 4, 4))), (), "symmetric"),
        (np.eye(4)[None].repeat(3, 0), (True,), "one of them at least free"),
        (np.eye(4)[None].repeat(3, 0), (False,) * 4, "one of them at least free"),
    ],
)
def test_what_is_no_geometry_is_refused(grams: np.ndarray, free: tuple[bool, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Space(*NAMES, grams, free)
