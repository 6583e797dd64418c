import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.statistics import compare_configurations, compare_models, holm

scores = st.sampled_from([0.0, 1.0, 0.25])
tasks = st.lists(st.dictionaries(st.integers(0, 30), scores, min_size=1), min_size=1, max_size=4).map(
    lambda found: {f"task-{i}": samples for i, samples in enumerate(found)}
)


def answers(rng: np.random.Generator, rates: dict[str, float], count: int) -> dict[str, dict[int, float]]:
    return {task: {i: float(rng.random() < rate) for i in range(count)} for task, rate in rates.items()}


def none(samples: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Return the same documents, all answered wrong: what is left of a difference is the average itself."""
    return {task: dict.fromkeys(scored, 0.0) for task, scored in samples.items()}


@given(tasks)
def test_an_average_is_macro_and_within_its_interval(samples: dict[str, dict[int, float]]) -> None:
    found = compare_models(samples, none(samples), resamples=200)
    by_hand = np.mean([np.mean(list(scored.values())) for scored in samples.values()])
    assert found.difference == pytest.approx(100 * by_hand)
    assert -1e-9 <= found.low <= found.high <= 100 + 1e-6
    assert found.n == sum(map(len, samples.values()))
    assert found == compare_models(samples, none(samples), resamples=200)


@given(tasks, st.integers(0, 5))
def test_a_model_does_not_differ_from_itself_and_the_other_way_round_is_the_opposite(
    samples: dict[str, dict[int, float]], seed: int
) -> None:
    same = compare_models(samples, samples, resamples=100)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    rng = np.random.default_rng(seed)
    other = {task: {doc: float(rng.random() < 0.5) for doc in scored} for task, scored in samples.items()}
    there, back = compare_models(samples, other, resamples=100), compare_models(other, samples, resamples=100)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == back.p
    assert 0 < there.p <= 1


def test_weights_are_those_of_the_average() -> None:
    samples = {"a": {0: 1.0, 1: 1.0}, "b": {0: 0.0, 1: 0.0}}
    assert compare_models(samples, none(samples), weights={"a": 3, "b": 1}).difference == 75


def test_intervals_and_p_values_keep_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    held = paired = false = 0
    for trial in range(200):
        easy = rng.random(150)  # what is hard for one is hard for the other
        first = {"t": {i: float(rng.random() < p) for i, p in enumerate(easy)}, "u": {0: 1.0, 1: 0.0}}
        second = {"t": {i: float(rng.random() < p) for i, p in enumerate(easy)}, "u": {0: 1.0, 1: 0.0}}
        alike = compare_models(first, second, resamples=300, seed=trial)
        false += alike.p <= 0.05
        paired += alike.low <= 0 <= alike.high
        right = answers(rng, {"t": 0.7, "u": 0.4}, 100)
        found = compare_models(right, none(right), resamples=300, seed=trial)
        held += found.low <= 55 <= found.high
    assert 0.9 <= held / 200 <= 0.99
    assert paired / 200 >= 0.9
    assert false / 200 <= 0.09


def test_pairing_is_sharper_than_two_averages() -> None:
    rng = np.random.default_rng(1)
    first = answers(rng, {"t": 0.5}, 400)
    second = {"t": {i: score if rng.random() < 0.95 else 0.0 for i, score in first["t"].items()}}
    found = compare_models(first, second)
    alone = compare_models(first, none(first))
    assert found.high - found.low < (alone.high - alone.low) / 2
    assert found.p < 0.01
    assert found.low > 0


def test_configurations_are_compared_seed_by_seed() -> None:
    first = {seed: 50.0 + seed for seed in range(10)}
    found = compare_configurations(first, {seed: 48.0 + seed + 0.1 * (seed % 2) for seed in range(12)})
    assert found.n == 10
    assert found.difference == pytest.approx(1.95)
    assert found.low < 1.95 < found.high < 2.1
    assert found.p == pytest.approx(2 / 2**10)
    many = compare_configurations({i: float(i % 3) for i in range(40)}, {i: float((i + 1) % 3) for i in range(40)})
    assert many.low < 0 < many.high
    assert many.p > 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(0 <= old <= new <= 1 for old, new in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)
    assert min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="the task a has no samples"):
        compare_models({"a": {0: 1.0}}, {"a": {1: 1.0}})
    with pytest.raises(ValueError, match="asked other tasks: a; b"):
        compare_models({"a": {0: 1.0}}, {"b": {0: 1.0}})
    with pytest.raises(ValueError, match="no task to average over"):
        compare_models({}, {})
    with pytest.raises(ValueError, match="the task a has no weight"):
        compare_models({"a": {0: 1.0}}, {"a": {0: 0.0}}, weights={"b": 1.0})
    with pytest.raises(ValueError, match="two seeds that both were run on, there are 1"):
        compare_configurations({0: 1.0, 1: 2.0}, {1: 1.0})
    with pytest.raises(ValueError, match=r"1\.5 is no p value"):
        holm([1.5])
