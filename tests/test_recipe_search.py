"""The search of recipes through the front door: what it makes, predicts and says; killed, resumed, by two processes."""

from pathlib import Path

import pytest

from src.journal import events_of, replay
from src.population import KinshipTable, Model, Population
from src.strategy.recipe_search import RecipeSearch
from tests import processes
from tests.conftest import Command, run
from tests.family import FOUNDERS, TASKS, write_family
from tests.test_kills import end_as_one_that_was_not_killed
from tests.test_mistakes import check_refused
from tests.test_processes import told

SEARCH = ("strategy=recipe_search", "merge=task_arithmetic", "stop.evaluations=10", "stop.gain=null")


def command(family: Path, outputs: Path, name: str, *overrides: str) -> list[str]:
    models = ",".join(f"{founder}:{family / founder}" for founder in FOUNDERS)
    return [
        *("founders=local", f"founders.base={family / 'base'}", f"founders.models={{{models}}}"),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.holdout=0.5"),
        *(f"outputs={outputs}", f"name={name}", "track=none", "cache=off", "workers.threads=1"),
        *(*SEARCH, *overrides),
    ]


def test_it_makes_the_direction_then_recipes_that_it_predicted(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*SEARCH)
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    assert state.base is not None
    assert state.base.average is not None
    first = state.population["1-1"]
    assert first.merge is not None
    assert first.merge["method"] == "wudi"
    recipes = [model for model in state.population if model.generation > 1]
    assert len(recipes) == 10 - len(FOUNDERS) - 1 - 2  # the base, the direction and the recipe to start from
    for model in recipes:
        assert model.predicted is not None
        assert model.predicted.low <= model.predicted.value <= model.predicted.high
        assert model.merge is not None
        assert model.merge["method"] == "task_arithmetic"
    assert all(model.expected is not None for model in state.population.eligible())
    assert state.expected_gain is not None
    winner = state.population.best(1)[0]
    assert winner.expected == max(model.expected or 0 for model in state.population)
    assert f"{recipes[-1].predicted.value:.2f} predicted" in outcome.out
    assert "more may be gained" in outcome.out
    assert (tmp_path / "outputs/run/report.html").exists()


def test_without_directions_it_begins_with_the_founders_sum(evolve: Command, tmp_path: Path) -> None:
    options = ("strategy.directions=null", "strategy.blocks=layer", "strategy.batch=2", "stop.evaluations=9")
    outcome = evolve(*SEARCH, *options, "evaluate.objective=worst")
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    (first,) = [model for model in state.population if model.generation == 1]
    assert first.merge is not None
    assert first.merge["each"] == [{"weight": 0.4}] * len(first.parents)
    both = [model for model in state.population if model.generation == 2]
    assert len(both) == 2
    assert both[0].merge != both[1].merge
    given = [weight for model in both for each in (model.merge or {})["each"] for weight in [each["weight"]]]
    filters = {one.get("filter", "") for weight in given if isinstance(weight, list) for one in weight}
    assert any(".0.mlp." in one for one in filters), given


def test_it_stops_when_nothing_is_to_be_gained(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*SEARCH[:2], "stop.gain=100")
    assert outcome.status == 0, outcome.err
    assert "no gain: the search expects to gain" in outcome.out
    state = replay(events_of(tmp_path / "outputs/run"))
    assert state.population.generation == 2  # patience


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_one_that_was_not(family: Path, tmp_path: Path, kills: int) -> None:
    end_as_one_that_was_not_killed(
        lambda name: run(*command(family, tmp_path, name, "evaluate.share=0.5")).status, tmp_path, kills
    )


def test_a_share_of_the_samples_is_filled_in_and_the_finalists_are_asked_everything(
    evolve: Command, tmp_path: Path
) -> None:
    outcome = evolve(*SEARCH, "evaluate.share=0.25", "stop.evaluations=12")
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    winner = state.population.best(1)[0]
    assert winner.part is None
    asked = [event for event in events_of(tmp_path / "outputs/run") if event["event"] == "evaluated"]
    (whole,) = [event["samples"] for event in asked if event["model"] == "base"]
    parts = [event["samples"] for event in asked if event.get("part") is not None]
    assert set(parts) == {whole // 4}
    again = [event["model"] for event in asked if event["model"] == winner.name]
    assert winner.founder or len(again) == 2


def test_two_processes_search_like_one(family: Path, tmp_path: Path) -> None:
    assert run(*command(family, tmp_path, "one", "strategy.batch=2")).status == 0
    work = lambda rank: run(*command(family, tmp_path, "two", "strategy.batch=2")).status  # noqa: E731
    assert processes.wait(processes.start(2, work)) == [0, 0]
    one, two = told(tmp_path, "one"), told(tmp_path, "two")
    assert [e for e in one if e["event"] != "started"] == [e for e in two if e["event"] != "started"]


def test_a_16_bit_family_is_searched_too(tmp_path: Path) -> None:
    small = write_family(tmp_path / "bf16", dtype="BF16")
    assert run(*command(small, tmp_path, "run", "stop.evaluations=9")).status == 0
    state = replay(events_of(tmp_path / "run"))
    assert all(model.failure is None for model in state.population)


def test_what_makes_no_sense_is_refused(evolve: Command) -> None:
    check_refused(evolve("strategy=recipe_search", "strategy.blocks=tensors"), "strategy.blocks is 'tensors'")
    check_refused(
        evolve("strategy=recipe_search", "+strategy.directions.wudi.parameters.rhu=1"),
        "strategy.merge.parameters.rhu: wudi has no such parameter",
    )


def test_before_anything_is_measured_it_proposes_what_needs_no_prediction() -> None:
    population = Population((Model("a", average=50.0), Model("b", average=40.0)))
    search = RecipeSearch("recipe_search", seed=0)
    (first,) = search.propose(population, KinshipTable("pcc"))
    assert first.parents == ("a", "b")
    assert search.outlook(population, KinshipTable("pcc")) is None
