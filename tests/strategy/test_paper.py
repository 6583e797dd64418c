"""The paper's experiment replayed (arXiv 2410.12613, Table 2): its scores and kinships must lead to its pairs."""

import csv
from pathlib import Path

import pytest

from src.population import KinshipTable, Model, Population
from src.strategy import Exploration, GreedyTopk, KinshipTopk

TABLE = Path(__file__).parent.parent / "data" / "evolution.csv"


def rows(experiment: str) -> list[dict[str, str]]:
    with TABLE.open() as file:
        return [row for row in csv.DictReader(file) if row["experiment"] in {"both", experiment}]


class PapersKinship(dict[frozenset[str], float]):
    """The paper prints the kinship of the pairs it merged, no other; all others count as closer."""

    def get(self, key: frozenset[str], default: float | None = None) -> float:  # type: ignore[override]
        return super().get(key, 1.0)


def kinship(experiment: str) -> KinshipTable:
    printed = {frozenset((row["parent_a"], row["parent_b"])): row["kinship"] for row in rows(experiment)}
    return KinshipTable("pcc", PapersKinship({pair: float(value) for pair, value in printed.items() if value}))


def population(experiment: str, before: int) -> Population:
    return Population(
        tuple(
            Model(
                row["model"],
                int(row["generation"]),
                (row["parent_a"], row["parent_b"]) if row["parent_a"] else (),
                average=float(row["average"]),
            )
            for row in rows(experiment)
            if int(row["generation"]) < before
        )
    )


def printed_pairs(experiment: str, generation: int) -> set[frozenset[str]]:
    return {
        frozenset((row["parent_a"], row["parent_b"]))
        for row in rows(experiment)
        if int(row["generation"]) == generation
    }


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_greedy_chooses_the_papers_pairs(generation: int) -> None:
    pairs = GreedyTopk("greedy_topk", 3).propose(population("greedy", generation), kinship("greedy"))
    assert {pair.key for pair in pairs} == printed_pairs("greedy", generation)
    assert not any(pair.exploration for pair in pairs)


@pytest.mark.parametrize("generation", [1, 2, 3, 4])
def test_kinship_chooses_the_papers_pairs(generation: int) -> None:
    pairs = KinshipTopk("kinship_topk", 3).propose(population("kinship", generation), kinship("kinship"))
    assert {pair.key for pair in pairs} == printed_pairs("kinship", generation)


@pytest.mark.parametrize(
    ("generation", "explored"),
    [(1, None), (2, {"1-3", "instruct"}), (3, {"2-1", "1-1"}), (4, {"3-3", "2-3"})],
)
def test_the_exploration_is_the_papers(generation: int, explored: set[str] | None) -> None:
    pairs = KinshipTopk("kinship_topk", 3).propose(population("kinship", generation), kinship("kinship"))
    assert [set(pair.parents) for pair in pairs if pair.exploration] == ([explored] if explored else [])


def test_the_winner_of_the_paper_is_among_the_pairs_of_generation_5() -> None:
    pairs = KinshipTopk("kinship_topk", 3).propose(population("kinship", 5), kinship("kinship"))
    assert frozenset(("3-3", "4-6")) in {pair.key for pair in pairs}


def test_greedy_has_only_near_copies_left_to_merge_in_generation_4() -> None:
    pairs = GreedyTopk("greedy_topk", 3).propose(population("greedy", 4), kinship("greedy"))
    assert {pair.key for pair in pairs} == {frozenset(p) for p in (("2-1", "3-1"), ("2-1", "3-2"), ("3-1", "3-2"))}


def test_exploration_from_all_models_may_reach_past_the_grandparents() -> None:
    values = PapersKinship(kinship("kinship").values) | {frozenset(("3-3", "instruct")): -0.5}
    strategy = KinshipTopk("kinship_topk", 3, Exploration(pool="all"))
    pairs = strategy.propose(population("kinship", 4), KinshipTable("pcc", PapersKinship(values)))
    assert pairs[-1].key == frozenset(("3-3", "instruct"))


@pytest.mark.parametrize(("threshold", "explores"), [(0.2, True), (0.8, False)])
def test_exploration_can_wait_for_saturation(threshold: float, explores: bool) -> None:
    # S_3 before generation 3 is 2-1, 2-exp, 1-3, of mean kinship (0.24 + 0.93 + 0.32) / 3.
    strategy = KinshipTopk("kinship_topk", 3, Exploration(when="saturated", kinship=threshold))
    pairs = strategy.propose(population("kinship", 3), kinship("kinship"))
    assert any(pair.exploration for pair in pairs) is explores
