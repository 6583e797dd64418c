import dataclasses
from typing import Any

import pytest

from src.population import KinshipTable, Model, Population, Spent
from src.strategy import Stop

OFF = Stop(generations=None, evaluations=None, hours=None, unchanged=False, kinship=None, gain=None, patience=1)


def population(*bests: float) -> Population:
    """Two founders, and in each generation two offspring, the first of this average and the second worse than all."""
    models = [Model("a", average=50.0), Model("b", average=49.0)]
    for generation, best in enumerate(bests, 1):
        models.append(Model(f"{generation}-1", generation, ("a", "b"), average=best))
        models.append(Model(f"{generation}-2", generation, ("b", "a"), average=10.0))
    return Population(tuple(models))


def table(value: float, metric: str = "pcc", larger_is_closer: bool = True) -> KinshipTable:
    class Everywhere(dict[frozenset[str], float]):
        def get(self, key: frozenset[str], default: Any = None) -> float:  # type: ignore[override]
            return value

    return KinshipTable(metric, Everywhere(), larger_is_closer)


def reason(rule: dict[str, Any], bests: tuple[float, ...], kinship: KinshipTable | None = None) -> str | None:
    stop = dataclasses.replace(OFF, **rule)
    spent = Spent(evaluations=2 + 2 * len(bests), hours=0.5 * len(bests))
    return stop.reason(population(*bests), kinship or table(0.0), spent, 2)


@pytest.mark.parametrize(
    ("rule", "bests", "words"),
    [
        ({"generations": 2}, (51.0, 52.0), "the budget of 2 generations is spent"),
        ({"generations": 1}, (51.0,), "the budget of 1 generation is spent"),
        ({"evaluations": 6}, (51.0, 52.0), "the budget of 6 evaluations is spent"),
        ({"hours": 1.0}, (51.0, 52.0), "the budget of 1 hours is spent"),
        ({"unchanged": True}, (51.0, 40.0), "the 2 best models did not change"),
        ({"gain": 0.0}, (51.0, 51.0), "no gain: the best average grew by 0.00 in the last 1 generation"),
        ({"gain": 1.0, "patience": 2}, (51.0, 51.5, 52.0), "no gain: the best average grew by 1.00 in the last 2"),
    ],
)
def test_each_rule_stops_in_its_own_words_and_not_a_generation_earlier(
    rule: dict[str, Any], bests: tuple[float, ...], words: str
) -> None:
    found = reason(rule, bests)
    assert found is not None
    assert words in found
    assert reason(rule, bests[:-1]) is None


def test_without_rules_nothing_stops() -> None:
    assert reason({}, (51.0, 40.0, 40.0, 40.0)) is None


def test_founders_alone_never_stop_a_run_but_a_budget_does() -> None:
    assert reason({"unchanged": True, "gain": 5.0, "kinship": 0.1}, (), table(0.99)) is None
    assert reason({"evaluations": 2}, ()) == "the budget of 2 evaluations is spent"


@pytest.mark.parametrize(
    ("threshold", "kinship", "stops"),
    [
        (0.9, table(0.95), True),
        (0.9, table(0.85), False),
        ("auto", table(0.95), True),
        ("auto", table(0.85), False),
        (None, table(0.99), False),
        (3.0, table(2.0, "euclidean", larger_is_closer=False), True),
        (3.0, table(4.0, "euclidean", larger_is_closer=False), False),
        ("auto", table(0.0001, "euclidean", larger_is_closer=False), False),
    ],
)
def test_saturation_follows_the_metric_and_its_threshold(threshold: Any, kinship: KinshipTable, stops: bool) -> None:
    found = reason({"kinship": threshold}, (51.0,), kinship)
    assert (found is not None and "the population is saturated" in found) is stops


def test_saturation_needs_patience() -> None:
    assert reason({"kinship": 0.9, "patience": 2}, (51.0,), table(0.95)) is None
    assert "for 2 generations (now 0.950)" in (reason({"kinship": 0.9, "patience": 2}, (51.0, 52.0), table(0.95)) or "")


def test_rules_about_the_k_best_do_not_apply_without_k() -> None:
    stop = dataclasses.replace(OFF, unchanged=True, gain=5.0, kinship=0.1)
    assert stop.reason(population(51.0, 40.0), table(0.99), Spent(6, 1.0), None) is None
