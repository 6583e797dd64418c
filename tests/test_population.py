import math

import pytest

from src.population import KinshipTable, Model, Population


def population() -> Population:
    return Population(
        (
            Model("a", average=50.0),
            Model("b", average=60.0),
            Model("c", average=60.0),
            Model("1-1", 1, ("b", "a"), average=58.0),
            Model("1-2", 1, ("b", "c"), average=None),
            Model("1-3", 1, ("c", "a"), average=99.0, failure="NaN weights"),
            Model("2-1", 2, ("1-1", "c"), average=61.0),
        )
    )


def test_the_best_are_ordered_by_average_then_age_and_leave_out_failed_and_unscored_models() -> None:
    assert [model.name for model in population().best(9)] == ["2-1", "b", "c", "1-1", "a"]
    assert [model.name for model in population().best(2)] == ["2-1", "b"]


def test_gain_is_measured_against_the_mean_of_the_parents() -> None:
    assert population().gain("1-1") == pytest.approx(58.0 - 55.0)
    assert population().gain("2-1") == pytest.approx(61.0 - 59.0)
    assert population().gain("a") is None
    assert population().gain("1-2") is None


def test_a_pair_counts_as_merged_in_any_order_even_if_the_merge_failed() -> None:
    assert frozenset(("a", "c")) in population().merged()
    assert frozenset(("a", "b", "c")) not in population().merged()


def test_ancestors_go_back_to_the_founders() -> None:
    assert [model.name for model in population().ancestors("2-1")] == ["a", "b", "c", "1-1"]


def test_until_is_the_population_as_it_was() -> None:
    assert population().until(1).generation == 1
    assert "2-1" not in population().until(1)


def test_a_name_is_taken_once_and_an_unknown_one_is_named() -> None:
    with pytest.raises(ValueError, match="has a model 'a' already"):
        population().add(Model("a"))
    with pytest.raises(KeyError, match="no model 'x' in the population"):
        population()["x"]


def test_kinship_of_many_is_the_mean_over_pairs_and_nan_where_one_is_unknown() -> None:
    values = {frozenset("ab"): 0.1, frozenset("ac"): 0.2, frozenset("bc"): 0.6}
    table = KinshipTable("pcc", values)
    assert table.mean(["a", "b", "c"]) == pytest.approx(0.3)
    assert math.isnan(table.mean(["a"]))
    assert math.isnan(table.mean(["a", "b", "x"]))
    assert not table.closer(math.nan, 0.0)


@pytest.mark.parametrize(("larger_is_closer", "expected"), [(True, "b"), (False, "c")])
def test_least_related_follows_the_metric_s_orientation(larger_is_closer: bool, expected: str) -> None:
    table = KinshipTable("any", {frozenset("ab"): 0.1, frozenset("ac"): 0.2}, larger_is_closer)
    assert table.least_related("a", ["c", "b", "never measured"]) == expected
    assert table.least_related("a", ["never measured"]) is None
