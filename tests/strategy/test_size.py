"""Strategies at the size of a long run: thousands of models, of which a generation's pairs are few."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given

from src.population import KinshipTable, Model, Population, Proposal
from src.strategy import STRATEGIES
from src.strategy.topk import Exploration, KinshipTopk
from tests.strategy.test_contract import SETTINGS, evolutions

MANY = 5000


def long_run() -> Population:
    """Eight founders, and children of neighbours by the twenty a generation."""
    rng = random.Random(0)
    models = [Model(f"f{i}", average=rng.uniform(40, 50)) for i in range(8)]
    for number in range(MANY - 8):
        parents = tuple(model.name for model in rng.sample(models[-60:], 2))
        models.append(Model(f"m{number}", 1 + number // 20, parents, average=rng.uniform(40, 60)))
    return Population(tuple(models))


class Counted(dict[frozenset[str], float]):
    """Kinships that count how often they are asked for."""

    asked = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked += 1
        return 0.5


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {"recipe_search"}))  # which needs answers, and has no pairs
@pytest.mark.parametrize("pool", ["grandparents", "all"])
def test_no_strategy_looks_at_all_pairs_of_a_long_run(name: str, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 models there are 12 million pairs: to look at each costs a minute and gigabytes, every generation."""
    population, kinship, seen = long_run(), Counted(), 0

    def counted(items: Any, size: int) -> Any:
        nonlocal seen
        for one in combinations(items, size):
            seen += 1
            yield one

    combinations = itertools.combinations
    monkeypatch.setattr(itertools, "combinations", counted)
    more = {"explore": Exploration(pool=pool)} if name in {"kinship_topk", "random_pairs"} else {}  # type: ignore[arg-type]
    strategy = STRATEGIES[name](name=name, **SETTINGS[name], **more)
    proposed = strategy.propose(population, KinshipTable("pcc", kinship))
    assert proposed or name.startswith("recipe")  # what these need after generation 1 is not given to them here
    assert strategy.possible_parents(population)
    assert seen < MANY
    assert kinship.asked < 4 * MANY


@given(evolution=evolutions())
def test_random_pairs_are_those_that_a_list_of_all_free_pairs_would_give(
    evolution: tuple[Population, KinshipTable],
) -> None:
    """So that a run that was begun by an earlier version draws on as it would have."""
    population, kinship = evolution
    names = [model.name for model in population.best(len(population))]
    free = [pair for pair in itertools.combinations(names, 2) if frozenset(pair) not in population.merged()]
    for seed in range(5):
        wanted = len(KinshipTopk("kinship_topk", 3).propose(population, kinship))
        drawn = random.Random(f"{seed}/{population.generation + 1}").sample(free, min(wanted, len(free)))
        found = STRATEGIES["random_pairs"](name="random_pairs", k=3, seed=seed).propose(population, kinship)
        assert found == [Proposal(pair) for pair in drawn]


@given(evolution=evolutions())
def test_the_tops_are_the_best_of_every_generation_as_it_closed(evolution: tuple[Population, KinshipTable]) -> None:
    population, _ = evolution
    assert population.tops(3) == [population.until(g).best(3) for g in range(population.generation + 1)]
