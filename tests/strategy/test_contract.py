"""What every strategy must hold to, over any population."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.population import KinshipTable, Model, Population
from src.strategy import STRATEGIES as BUILT_IN
from src.strategy import Strategy
from src.strategy.directions import Direction
from tests.docs import own

STRATEGIES = {**BUILT_IN, "mine": own("strategy")["BestAndOthers"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "mine": {"k": 3},
    "kinship_topk": {"k": 3},
    "greedy_topk": {"k": 3},
    "random_pairs": {"k": 3, "seed": 7},
    "one_shot": {},
    "optuna_search": {
        **{"sampler": "tpe", "blocks": "whole", "batch": 3, "population_size": None},
        **{"low": 0.0, "high": 1.0, "seed": 7},
    },
    "recipe_search": {"seed": 7, "directions": {"wudi": Direction("wudi")}},
    "recipe_gradient": {"seed": 7, "directions": {"wudi": Direction("wudi")}, "start": 0.4},
    "m2n2": {"archive": 4, "alpha": 1.0, "batch": 3, "seed": 7},
}


def strategy(name: str) -> Strategy:
    return STRATEGIES[name](name=name, **SETTINGS[name])


@st.composite
def evolutions(draw: st.DrawFn) -> tuple[Population, KinshipTable]:
    """Founders and a few generations of offspring, some failed, with any scores and kinships."""
    founders = draw(st.integers(2, 6))
    averages = st.sampled_from([50.0, 50.5, 51.0, 55.0, 60.0])
    models = [Model(f"f{i}", average=draw(averages)) for i in range(founders)]
    for generation in range(1, draw(st.integers(0, 4)) + 1):
        taken = {frozenset(model.parents) for model in models}
        free = [pair for pair in itertools.combinations([m.name for m in models], 2) if frozenset(pair) not in taken]
        for n, pair in enumerate(draw(st.lists(st.sampled_from(free), max_size=4, unique=True)) if free else [], 1):
            failure = draw(st.sampled_from([None, None, None, "NaN"]))
            models.append(Model(f"{generation}-{n}", generation, pair, average=draw(averages), failure=failure))
    rng = random.Random(draw(st.integers(0, 1000)))
    pairs = itertools.combinations([model.name for model in models], 2)
    values = {frozenset(pair): rng.uniform(-1, 1) for pair in pairs if rng.random() < 0.9}
    return Population(tuple(models)), KinshipTable("pcc", values)


@pytest.mark.parametrize("name", STRATEGIES)
@given(evolution=evolutions())
def test_pairs_are_new_distinct_sound_and_better_first(name: str, evolution: tuple[Population, KinshipTable]) -> None:
    population, kinship = evolution
    pairs = strategy(name).propose(population, kinship)
    keys = [pair.key for pair in pairs]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & population.merged()
    for pair in pairs:
        assert len({*pair.parents}) == len(pair.parents) >= (1 if pair.merge else 2)
        assert all(population[parent].failure is None for parent in pair.parents)
        assert pair.parents == population.better_first(pair.parents)


@pytest.mark.parametrize("name", STRATEGIES)
@given(evolution=evolutions())
def test_the_same_past_gives_the_same_pairs(name: str, evolution: tuple[Population, KinshipTable]) -> None:
    assert strategy(name).propose(*evolution) == strategy(name).propose(*evolution)


@pytest.mark.parametrize("name", STRATEGIES)
@given(evolution=evolutions())
def test_no_generation_is_larger_than_announced(name: str, evolution: tuple[Population, KinshipTable]) -> None:
    population, kinship = evolution
    founders = sum(model.founder for model in population)
    pairs = strategy(name).propose(population, kinship)
    assert len(pairs) <= strategy(name).most_proposals(len(population))
    assert all(len(pair.parents) <= strategy(name).most_parents(founders) for pair in pairs)


@pytest.mark.parametrize("name", STRATEGIES)
@given(evolution=evolutions())
def test_parents_are_among_those_that_were_said_to_be_possible_at_every_earlier_time(
    name: str, evolution: tuple[Population, KinshipTable]
) -> None:
    """Else weights would be deleted that are needed again."""
    population, kinship = evolution
    pairs = strategy(name).propose(population, kinship)
    for generation in range(population.generation + 1):
        then = population.until(generation)
        alive = {model.name for model in then} & strategy(name).possible_parents(then)
        chosen = {parent for pair in pairs for parent in pair.parents if parent in then}
        assert chosen <= alive


@given(evolution=evolutions())
def test_random_pairs_are_as_many_as_kinship_topk_would_take(evolution: tuple[Population, KinshipTable]) -> None:
    population, kinship = evolution
    assert len(strategy("random_pairs").propose(population, kinship)) == len(
        strategy("kinship_topk").propose(population, kinship)
    )


def test_another_seed_draws_other_pairs() -> None:
    population = Population(tuple(Model(f"f{i}", average=50.0 + i) for i in range(8)))
    drawn = {
        STRATEGIES["random_pairs"](name="random_pairs", k=3, seed=seed).propose(population, KinshipTable("pcc"))[0].key
        for seed in range(10)
    }
    assert len(drawn) > 1


def test_one_shot_merges_all_founders_once() -> None:
    founders = Population((Model("a", average=1.0), Model("b", average=3.0), Model("c", average=2.0)))
    (pair,) = strategy("one_shot").propose(founders, KinshipTable("pcc"))
    assert pair.parents == ("b", "c", "a")
    done = founders.add(Model("1-1", 1, pair.parents, average=2.0))
    assert strategy("one_shot").propose(done, KinshipTable("pcc")) == []
