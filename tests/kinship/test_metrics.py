"""One contract for every metric, and the figures beside them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.kinship import METRICS, Grams, Tensor, delta_norms, kinship_matrix, mean_kinship, metric_of, shares
from src.runtime.errors import UserError
from tests.docs import own

NUMBERS = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))


def grams_of(deltas, base=None):
    """The Gram matrices of deltas [n, N], as one tensor."""
    deltas = np.atleast_2d(np.asarray(deltas, dtype=float))
    rows = np.vstack([np.ones(deltas.shape[1]) if base is None else base, deltas])
    names = tuple("abcdefgh"[: len(deltas)])
    return Grams(names, (Tensor("w", "other", None, rows.shape[1]),), (rows @ rows.T)[None], rows.sum(axis=1)[None])


@st.composite
def families(draw):
    n, count = draw(st.integers(2, 5)), draw(st.integers(3, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.standard_normal((n, count)) * draw(st.sampled_from([1e-4, 1.0, 1e4]))


BUILT_IN = dict(METRICS)
OF_THE_DOCS = own("metric")["overlap"]


@pytest.mark.parametrize("metric", [*BUILT_IN.values(), OF_THE_DOCS], ids=[*BUILT_IN, "mine"])
class TestContract:
    @given(deltas=families())
    @settings(max_examples=30, deadline=None)
    def test_symmetric_in_range_and_itself_on_the_diagonal(self, metric, deltas):
        matrix = metric.of(grams_of(deltas))
        assert matrix.shape == (len(deltas), len(deltas))
        assert matrix.dtype == np.float64
        assert np.array_equal(matrix, matrix.T)
        assert (matrix >= metric.lowest).all()
        assert (matrix <= metric.highest).all()
        assert (np.diagonal(matrix) == metric.itself).all()

    @given(deltas=families(), seed=st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_the_order_of_models_does_not_matter(self, metric, deltas, seed):
        order = np.random.default_rng(seed).permutation(len(deltas))
        one, other = metric.of(grams_of(deltas)), metric.of(grams_of(deltas[order]))
        np.testing.assert_allclose(other, one[np.ix_(order, order)], rtol=1e-9, atol=1e-12 * np.abs(one).max())

    @given(deltas=families())
    @settings(max_examples=30, deadline=None)
    def test_closer_is_closer(self, metric, deltas):
        """Half-way from one model to another is closer to it, and itself is closest."""
        a, b = deltas[:2]
        row = metric.of(grams_of([a, a + 0.1 * (b - a), b]))[0]
        closeness = row if metric.larger_is_closer else -row
        assert closeness[0] >= closeness[1] >= closeness[2]

    @given(deltas=families())
    @settings(max_examples=30, deadline=None)
    def test_models_that_are_equal_are_like_one_with_itself(self, metric, deltas):
        matrix = metric.of(grams_of([deltas[0], deltas[0], deltas[1]]))
        assert matrix[0, 1] == pytest.approx(metric.itself, abs=1e-7 * max(1, np.linalg.norm(deltas[0])))

    def test_what_was_not_measured_is_unknown(self, metric):
        grams = grams_of(np.eye(3, 5))
        grams.gram[0, 1, 2] = grams.gram[0, 2, 1] = np.nan
        matrix = metric.of(grams)
        assert np.isnan(matrix[0, 1])
        assert np.isnan(matrix[1, 0])
        assert np.isfinite(matrix[[0, 1], [2, 2]]).all()

    def test_it_says_what_it_is(self, metric):
        assert metric.name
        assert metric.about


def test_built_in_metrics_are_known_by_their_names():
    assert all(metric_of(name) is metric and metric.name == name for name, metric in BUILT_IN.items())


@given(deltas=families(), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_similarities_ignore_how_far_a_model_went(deltas, scale):
    factors = np.array([scale, *[1.0] * (len(deltas) - 1)])[:, None]
    for metric in ("pcc", "cosine"):
        one, other = kinship_matrix(grams_of(deltas), metric), kinship_matrix(grams_of(deltas * factors), metric)
        np.testing.assert_allclose(one, other, atol=1e-9)


@given(deltas=families(), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_distance_grows_with_the_deltas(deltas, scale):
    one, other = (kinship_matrix(grams_of(d), "euclidean") for d in (deltas, deltas * scale))
    np.testing.assert_allclose(other, scale * one, rtol=1e-6, atol=1e-7 * other.max())


@pytest.mark.parametrize(
    ("metric", "a", "b", "wanted"),
    [
        ("cosine", [1, 0], [0, 1], 0.0),
        ("cosine", [1, 2], [-1, -2], -1.0),
        ("cosine", [1, 1], [1, 0], np.sqrt(0.5)),
        ("pcc", [1, 2, 3], [2, 4, 6], 1.0),
        ("pcc", [1, 2, 3], [3, 2, 1], -1.0),
        ("pcc", [11, 12, 13], [3, 2, 1], -1.0),
        ("euclidean", [1, 2], [4, 6], 5.0),
    ],
)
def test_values_known_by_hand(metric, a, b, wanted):
    assert kinship_matrix(grams_of([a, b]), metric)[0, 1] == pytest.approx(wanted, abs=1e-12)


def test_a_constant_delta_has_no_correlation():
    assert np.isnan(kinship_matrix(grams_of([[0, 0, 0], [1, 2, 3]]), "pcc")[0]).all()


def test_unknown_metric_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown metric 'manhattan'; expected one of pcc, cosine, euclidean"):
        kinship_matrix(grams_of(np.eye(2)), "manhattan")


def test_mean_over_pairs():
    matrix = np.array([[1, 0.1, 0.2], [0.1, 1, 0.6], [0.2, 0.6, 1]])
    assert mean_kinship(matrix) == pytest.approx(0.3)
    assert np.isnan(mean_kinship(np.eye(1)))


def test_norms():
    assert delta_norms(grams_of([[3, 4], [0, 2]])) == {"a": 5.0, "b": 2.0}


@given(weights=st.lists(st.floats(-2, 2), min_size=2, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_shares_of_a_merge_are_its_weights(weights, seed):
    founders = np.random.default_rng(seed).standard_normal((len(weights), 40))
    grams = grams_of([*founders, np.array(weights) @ founders + 1e-9])
    names = grams.names
    found = shares(grams, names[len(weights)], names[: len(weights)])
    assert list(found.values()) == pytest.approx(weights, abs=1e-6)


def test_shares_of_twins_are_divided():
    found = shares(grams_of([[1, 0, 0], [1, 0, 0], [1, 1, 0]]), "c", ["a", "b"])
    assert found == pytest.approx({"a": 0.5, "b": 0.5})
