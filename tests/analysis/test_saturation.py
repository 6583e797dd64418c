"""The changepoint on evolutions of which it is known where they saturate, or that they do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.statistics import saturation

Path = tuple[np.ndarray, np.ndarray, np.ndarray]


def evolution(rng: np.random.Generator, learning: int, saturated: int, merges: int = 1) -> Path:
    """Generation, gain and kinship of an evolution with two stages."""
    generation = np.repeat(np.arange(1, learning + saturated + 1), merges)
    late = generation > learning
    gain = np.where(late, rng.normal(0.02, 0.1, len(late)), rng.normal(0.5, 0.5, len(late)))
    kinship = np.where(late, rng.normal(0.96, 0.02, len(late)), rng.normal(0.8, 0.1, len(late)))
    return generation, gain, kinship


@pytest.mark.parametrize("merges", [1, 3])
def test_a_change_is_found_where_it_is(merges: int) -> None:
    rng = np.random.default_rng(1)
    off = []
    for _ in range(100):
        learning = int(rng.integers(5, 12))
        found = saturation(*evolution(rng, learning, 7, merges), permutations=199).generation
        off.append(99 if found is None else abs(found - (learning + 1)))
    assert np.mean(np.array(off) <= 2) > 0.85
    assert np.median(off) <= 1


def test_where_nothing_changes_a_change_is_rarely_found() -> None:
    rng = np.random.default_rng(2)
    found = [saturation(*evolution(rng, 14, 0), permutations=199).generation for _ in range(300)]
    assert sum(generation is not None for generation in found) / 300 < 0.09


def test_a_population_that_begins_to_learn_is_not_saturated() -> None:
    generation, gain, kinship = evolution(np.random.default_rng(3), 7, 7, 2)
    assert saturation(generation, gain[::-1], kinship[::-1]).generation is None


@given(st.integers(0, 1000))
def test_scale_order_and_a_monotone_curve_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    generation, gain, kinship = evolution(rng, 6, 6, 2)
    found = saturation(generation, gain, kinship, permutations=99)
    order = np.argsort(generation + rng.uniform(0, 0.5, len(generation)))
    assert saturation(generation[order], gain[order], kinship[order], permutations=99).generation == found.generation
    for curve, closer in ((lambda k: 3 * k**3, True), (lambda k: 10 - 2 * k, False)):
        other = saturation(generation, 7 * gain, curve(kinship), larger_is_closer=closer, permutations=99)
        assert (other.generation, other.p) == (found.generation, found.p)
    if found.generation is not None:
        assert generation.min() < found.generation <= generation.max()
        assert found.gain_after < found.gain_before
        assert found.kinship_after > found.kinship_before


def test_too_few_merges_tell_nothing() -> None:
    found = saturation([1, 2, 3, 4], [1, 1, 0, 0], [0.1, 0.2, 0.9, 0.9])
    assert (found.generation, found.p, found.n) == (None, 1.0, 4)
    one = saturation([1] * 8, np.arange(8), np.arange(8))  # there is no border within a generation
    assert one.generation is None
    assert saturation([], [], []).generation is None
    assert saturation([1, 2] * 4, [float("nan")] * 8, np.arange(8)).n == 0
    with pytest.raises(ValueError, match=r"are \(2,\), \(1,\), \(2,\)"):
        saturation([1, 2], [1], [1, 2])
