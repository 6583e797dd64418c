"""How many resamples are enough: what is said of a difference must not hang on the seed of its drawing."""

import math

import numpy as np
import pytest

from src.statistics import compare_models, correlate, holm
from src.statistics.average import RESAMPLES, bootstrap_macro, flipped_macro

Pair = tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]


def pair(better: tuple[int, ...], worse: tuple[int, ...], count: int) -> Pair:
    """Two models that differ, task by task, in so many samples each way."""
    first = {str(t): {i: float(i < up) for i in range(count)} for t, up in enumerate(better)}
    second = {
        str(t): {i: float(up <= i < up + down) for i in range(count)}
        for t, (up, down) in enumerate(zip(better, worse, strict=True))
    }
    return first, second


WEIGHTS = {"0": 1.0, "1": 1.37, "2": 1.74, "3": 2.11}
UNDECIDED = pair((6, 5, 6, 4), (3, 2, 2, 3), 31)


def test_a_seed_no_longer_decides_whether_an_interval_has_zero() -> None:
    few = [compare_models(*UNDECIDED, weights=WEIGHTS, resamples=2000, seed=seed).low > 0 for seed in range(20)]
    enough = [compare_models(*UNDECIDED, weights=WEIGHTS, seed=seed).low > 0 for seed in range(20)]
    assert any(few), "2,000 resamples were not enough here; if they are, this shows nothing"
    assert not any(enough)


@pytest.mark.parametrize("resamples", [2000, None])
def test_the_monte_carlo_error_is_what_another_seed_moves_a_bound_by(resamples: int | None) -> None:
    found = [compare_models(*UNDECIDED, weights=WEIGHTS, resamples=resamples, seed=seed) for seed in range(30)]
    assert {one.resamples for one in found} == {resamples or RESAMPLES}
    moved = max(np.std([one.low for one in found]), np.std([one.high for one in found]))
    assert 0.5 * moved < np.mean([one.error for one in found]) < 2.5 * moved
    errors = [math.sqrt(one.p * (1 - one.p) / one.resamples) for one in found]
    assert 0.5 < np.std([one.p for one in found]) / np.mean(errors) < 2


@pytest.mark.parametrize("shades", [False, True])
def test_what_is_drawn_at_once_is_distributed_as_what_is_drawn_sample_by_sample(shades: bool) -> None:
    rng = np.random.default_rng(3)
    values = {"a": rng.choice([1.0, 0.0, -1.0], size=70, p=[0.3, 0.5, 0.2]), "b": np.array([1.0] * 5 + [0.0] * 20)}
    if shades:
        values["b"] = rng.normal(0.1, 0.4, size=25)
    shares, count = {"a": 0.6, "b": 0.4}, 100_000
    value, drawn = bootstrap_macro(values, shares, count, 0)
    rows = {t: rng.integers(len(one), size=(count, len(one))) for t, one in values.items()}
    plain = sum(shares[t] * one[rows[t]].mean(axis=1) for t, one in values.items())
    assert value == pytest.approx(drawn.mean(), abs=0.001)
    assert np.quantile(drawn, [0.025, 0.3, 0.975]) == pytest.approx(np.quantile(plain, [0.025, 0.3, 0.975]), abs=0.004)
    flipped = flipped_macro(values, shares, count, 0)
    spread = math.sqrt(sum((shares[t] / len(one)) ** 2 * (one**2).sum() for t, one in values.items()))
    assert flipped.mean() == pytest.approx(0, abs=0.001)
    assert flipped.std() == pytest.approx(spread, rel=0.02)


def test_a_metric_of_shades_is_resampled_less_often_where_there_are_many_samples() -> None:
    rng = np.random.default_rng(0)
    first, second = ({"t": dict(enumerate(rng.random(3000)))} for _ in range(2))
    found = compare_models(first, second)
    assert 10_000 <= found.resamples < RESAMPLES
    assert 0 < found.error < 0.1 * (found.high - found.low)


def test_correlations_say_how_sure_their_bounds_are() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=25)
    y = x + rng.normal(size=25)
    found = [correlate(x, y, seed=seed) for seed in range(12)]
    moved = max(np.std([one.low for one in found]), np.std([one.high for one in found]))
    assert 0.4 * moved < np.mean([one.error for one in found]) < 3 * moved
    assert found[0].resamples == 10_000
    assert math.isnan(correlate([1, 1, 1], [1, 2, 3]).error)


def test_what_could_not_be_tested_does_not_count_in_the_family() -> None:
    first, undefined, second = holm([0.02, math.nan, 0.03])
    assert (first, second) == (0.04, 0.04)
    assert math.isnan(undefined)
