import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from src.statistics import METHODS, correlate

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
rows = st.lists(st.tuples(numbers, numbers), min_size=4, max_size=30)


@given(rows, st.sampled_from(METHODS), st.floats(0.1, 10), st.floats(-5, 5))
def test_r_is_symmetric_bounded_and_blind_to_scale_and_order(
    pairs: list[tuple[float, float]], method: str, scale: float, shift: float
) -> None:
    x, y = zip(*pairs, strict=True)
    assume(len(set(x)) > 1 and len(set(y)) > 1 and np.ptp(x) > 0.01 and np.ptp(y) > 0.01)
    found = correlate(x, y, method, resamples=50)
    assert -1 <= found.low <= found.high <= 1
    assert -1 - 1e-9 <= found.r <= 1 + 1e-9
    assert correlate(y, x, method, resamples=50).r == pytest.approx(found.r, abs=1e-9)
    assert correlate(x[::-1], y[::-1], method, resamples=50).r == pytest.approx(found.r, abs=1e-9)
    assert correlate([scale * a + shift for a in x], y, method, resamples=50).r == pytest.approx(found.r, abs=1e-6)
    assert correlate([-a for a in x], y, method, resamples=50).r == pytest.approx(-found.r, abs=1e-9)


@given(rows, st.integers(0, 3))
def test_the_same_seed_gives_the_same_interval(pairs: list[tuple[float, float]], seed: int) -> None:
    x, y = zip(*pairs, strict=True)
    assert str(correlate(x, y, seed=seed, resamples=50)) == str(correlate(x, y, seed=seed, resamples=50))


def test_unknown_rows_are_left_out_and_what_never_changes_has_no_correlation() -> None:
    assert correlate([1, 2, math.nan, 4, 5], [1, 2, 9, 4, math.nan]).n == 3
    assert math.isnan(correlate([1, 1, 1, 1], [1, 2, 3, 4]).r)


@pytest.mark.parametrize("method", METHODS)
def test_the_interval_holds_the_true_correlation_about_as_often_as_it_says(method: str) -> None:
    rng = np.random.default_rng(0)
    truth = 0.6 if method == "pearson" else 6 / math.pi * math.asin(0.3)
    held = 0
    for trial in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=40).T
        found = correlate(x, y, method, resamples=400, seed=trial)
        held += found.low <= truth <= found.high
        if trial < 5:
            reference = (stats.pearsonr if method == "pearson" else stats.spearmanr)(x, y)
            assert (found.r, found.p) == pytest.approx(tuple(reference))
    assert 0.88 <= held / 200 <= 0.99


def test_what_cannot_be_correlated_is_refused() -> None:
    with pytest.raises(ValueError, match="three rows or more, there are 2"):
        correlate([1, 2], [3, 4])
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        correlate([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="expected one of pearson, spearman"):
        correlate([1, 2, 3], [1, 2, 3], "kendall")
