"""Optuna's samplers over weighted merges: what is rebuilt from the journal suggests what was never interrupted."""

import importlib.util
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest

from src.evaluation import candidates
from src.population import KinshipTable, Model, Population
from src.strategy.optuna_search import OptunaSearch, Sampler
from src.strategy.recipes import Blocks, weights_of
from tests.conftest import Command
from tests.strategy.killed import assert_same_journal
from tests.strategy.test_recipes import LLAMA, geometry
from tests.test_kills import FakeEvaluator
from tests.test_mistakes import check_refused

SAMPLERS = get_args(Sampler)
FOUNDERS = tuple("abcdefgh")


def search(sampler: Sampler, **changes: Any) -> OptunaSearch:
    settings = {"blocks": "whole", "batch": 4, "population_size": None, "low": 0.0, "high": 1.0, "seed": 3}
    return OptunaSearch(name="optuna_search", sampler=sampler, **{**settings, **changes})


class Family:
    """Founders whose weighted sums have known scores: the nearer to a target, the better; each task has its own."""

    def __init__(self, seed: int = 0, founders: int = 5, tasks: int = 3, kinship: KinshipTable | None = None) -> None:
        self.names = FOUNDERS[:founders]
        self.kinship = kinship or KinshipTable("pcc")
        self._targets = np.random.default_rng(seed).uniform(0, 1, (tasks, founders, 1))
        self._targets = 0.8 * self._targets[:1] + 0.2 * self._targets

    def scored(self, weights: np.ndarray) -> dict[str, Any]:
        losses = ((weights - self._targets) ** 2).sum(axis=(1, 2))
        scores = {f"task {i}": 60 - 5 * float(loss) for i, loss in enumerate(losses)}
        return {"scores": scores, "average": float(np.mean(list(scores.values())))}

    def founders(self) -> Population:
        units = np.eye(len(self.names))[:, :, None]
        return Population(tuple(Model(name, **self.scored(unit)) for name, unit in zip(self.names, units, strict=True)))

    def evolved(self, strategy: OptunaSearch, evaluations: int) -> Population:
        """The population once so many models are known, or nothing is proposed any more."""
        population, blocks = self.founders(), Blocks.of(strategy.blocks, self.kinship.geometry)
        while len(population) < evaluations and (found := strategy.propose(population, self.kinship)):
            generation = population.generation + 1
            for number, proposal in enumerate(found, 1):
                made = Model(f"{generation}-{number}", generation, proposal.parents, merge=proposal.merge)
                weights = weights_of(made, self.names, blocks)
                assert weights is not None
                population = population.add(made).update(made.name, **self.scored(weights))
        return population


@pytest.mark.parametrize(
    ("sampler", "founders", "evaluations", "batch", "seeds"),
    [("tpe", 5, 25, 4, 8), ("gp", 5, 25, 4, 4), ("cmaes", 5, 25, 4, 8), ("nsgaii", 8, 80, 10, 8)],
)
def test_a_sampler_that_learns_finds_better_models_than_chance(
    sampler: Sampler, founders: int, evaluations: int, batch: int, seeds: int
) -> None:
    def best(which: Sampler) -> float:
        families = [Family(seed, founders) for seed in range(seeds)]
        ended = [family.evolved(search(which, seed=i, batch=batch), evaluations) for i, family in enumerate(families)]
        return float(np.mean([population.value(population.best(1)[0]) for population in ended]))

    assert best(sampler) > best("random") + 0.3


@pytest.mark.parametrize(
    ("sampler", "division"), [*((sampler, "part") for sampler in SAMPLERS), ("tpe", "layer"), ("cmaes", "layer")]
)
def test_proposals_are_new_within_bounds_and_the_same_every_time(sampler: Sampler, division: str) -> None:
    family = Family(founders=3, kinship=KinshipTable("pcc", geometry=geometry(LLAMA)))
    strategy = search(sampler, blocks=division, low=-0.25, high=0.75)
    population = family.evolved(strategy, 14)
    assert len(population) >= 14
    keys = [frozenset((model.parents, str(model.merge))) for model in population if model.parents]
    assert len(set(keys)) == len(keys)
    blocks = Blocks.of(strategy.blocks, family.kinship.geometry)
    for model in population:
        weights = weights_of(model, family.names, blocks)
        assert weights is not None
        assert model.founder or ((weights >= -0.25) & (weights <= 0.75)).all()
        assert model.founder or len(np.unique(weights)) > 1
    assert population == family.evolved(strategy, 14)
    assert population.models[3:] != family.evolved(search(sampler, blocks=division, seed=4), 14).models[3:]
    proposed = strategy.propose(population, family.kinship)
    assert proposed == strategy.propose(population, family.kinship)
    assert {proposal.key for proposal in proposed}.isdisjoint(population.merged())


@pytest.mark.parametrize("sampler", ["cmaes", "nsgaii"])
def test_a_study_made_anew_from_the_journal_suggests_what_one_that_was_never_dropped_does(sampler: Sampler) -> None:
    """Both keep what they know of their generations with the trials, where a list of weights and values has no room."""
    family, strategy = Family(), search(sampler, population_size=6, batch=4)
    population = family.evolved(strategy, 40)
    space = {f"{name}, whole": optuna.distributions.FloatDistribution(0.0, 1.0) for name in family.names}
    several = sampler == "nsgaii"
    study = optuna.create_study(directions=["maximize"] * (3 if several else 1))
    seen = set()
    for generation in range(population.generation + 1):
        study.sampler = strategy._sampler(strategy._seed(population.until(generation - 1)), 6)
        asked = []
        for model in population.of_generation(generation):
            wanted = weights(model, family)
            values = list(model.scores.values()) if several else [model.average]
            given = dict(zip(space, wanted.tolist(), strict=True))
            seen.add(tuple(wanted))
            if model.founder and not several:
                study.add_trial(optuna.trial.create_trial(params=given, distributions=space, values=values))
                continue
            if model.founder:
                study.enqueue_trial(given)
            while not np.allclose(suggested := list((trial := study.ask(space)).params.values()), wanted, atol=2e-3):
                assert tuple(np.round(suggested, 4)) in seen  # made already, so that another one was asked for
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            _ = trial.relative_params
            asked.append((trial, values))
        for trial, values in asked:
            study.tell(trial, values)
    sizes = [len(population.of_generation(generation)) for generation in range(1, 6)]
    assert sizes == ([1, 4, 2, 4, 2] if several else [4, 2, 4, 2, 4])  # no batch goes past a generation of six


def weights(model: Model, family: Family) -> np.ndarray:
    found = weights_of(model, family.names, Blocks.of("whole", None))
    assert found is not None
    return found.ravel()


def test_founders_are_known_points() -> None:
    """The first children of NSGA-II have the founders for parents; TPE starts to learn that much earlier."""
    family = Family(founders=6)
    children = search("nsgaii", population_size=6).propose(family.founders(), family.kinship)
    given = [one["weight"] for child in children for one in (child.merge or {})["each"]]
    assert given.count(1.0) > len(given) / 2
    better = family.evolved(search("tpe"), 16)
    worse = better
    for name in family.names:
        worse = worse.update(name, average=0.0, scores={})
    assert search("tpe").propose(better, family.kinship) != search("tpe").propose(worse, family.kinship)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_who_failed_counts_for_nothing_and_is_not_proposed_again(sampler: Sampler) -> None:
    family, strategy = Family(), search(sampler, population_size=4)
    population = family.evolved(strategy, 13)
    for model in population.of_generation(1):
        population = population.update(model.name, failure="NaN", average=None, scores={})
    proposed = strategy.propose(population, family.kinship)
    assert proposed
    assert {proposal.key for proposal in proposed}.isdisjoint(population.merged())


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsgaii", "random"])
def test_the_search_ends_where_every_recipe_was_tried(sampler: Sampler) -> None:
    population = Family(founders=2).evolved(search(sampler, low=0.0, high=0.0002), 100)
    assert 2 + 6 <= len(population) <= 2 + 9  # weights of 0, 0.0001 and 0.0002


def test_what_others_merged_takes_no_part() -> None:
    family = Family()
    merge = {"method": "slerp", "base_model": "parent", "parameters": {"t": 0.5}, "each": []}
    others = [Model(f"1-{n}", 1, ("a", "b"), merge=merge, average=average) for n, average in enumerate((1.0, 99.0))]
    populations = [family.founders().add(other) for other in others]
    first, second = (search("nsgaii", population_size=4).propose(one, family.kinship) for one in populations)
    assert first == second


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("strategy.sampler=anneal", "strategy.sampler is 'anneal'; should be 'tpe', 'cmaes', 'gp', 'random' or"),
        ("strategy.blocks=tensor", "strategy.blocks is 'tensor'; should be 'whole', 'part' or 'layer'"),
        ("strategy.low=1.5", "strategy has low=1.5 and high=1; weights are searched from low to high"),
        ("strategy.batch=0", "strategy.batch is 0; should be greater than or equal to 1"),
    ],
)
def test_a_mistake_costs_one_line(evolve: Command, given: str, words: str) -> None:
    check_refused(evolve("strategy=optuna_search", given), words)


def test_cma_es_without_its_package_is_refused(evolve: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cmaes" else real(name, *more))
    outcome = evolve("strategy=optuna_search", "strategy.sampler=cmaes")
    check_refused(outcome, "strategy has sampler=cmaes, which needs the package cmaes: pip install cmaes")


@pytest.mark.parametrize("sampler", ["cmaes", "gp"])
def test_a_run_that_is_killed_goes_on_to_the_same_journal(
    sampler: str, evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)

    def run(name: str) -> int:
        wanted = ("strategy=optuna_search", f"strategy.sampler={sampler}", "strategy.blocks=part")
        return evolve(*wanted, "stop.evaluations=18", f"name={name}").status

    # Among the candidates of a generation, and between two.
    assert_same_journal(run, tmp_path / "outputs", moments=(14, 22, 31))
