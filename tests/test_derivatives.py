"""A search that takes derivatives of scores: through the front door, killed, by two processes, against differences."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.evaluation.evaluator import Evaluator
from src.journal import State, events_of, replay
from src.learning.gradient import Stored, WeightedSum
from src.strategy.recipes import Blocks, weights_of
from src.surrogate.scoring import Scorer
from tests import processes
from tests.conftest import Command, run
from tests.family import FOUNDERS, SAMPLES, TASKS, write_family
from tests.strategy.test_recipes import geometry
from tests.test_evaluate import asked
from tests.test_kills import end_as_one_that_was_not_killed
from tests.test_mistakes import check_refused
from tests.test_processes import told
from tests.test_recipe_search import SEARCH, command

DERIVATIVES = "strategy.derivatives=true"


def taken(folder: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(folder) if event["event"] == "differentiated"]


def test_derivatives_are_taken_once_and_count_as_three_evaluations(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*SEARCH, DERIVATIVES, "stop.evaluations=13", "evaluate.holdout=0.5")
    assert outcome.status == 0, outcome.err
    (event,) = taken(tmp_path / "outputs/run")
    assert event["generation"] == 2
    assert event["forward"] == event["back"] == len(TASKS) * SAMPLES // 2
    assert event["tasks"] == list(TASKS)
    assert np.shape(event["values"]) == (len(TASKS), len(FOUNDERS) + 1, 4)
    state = replay(events_of(tmp_path / "outputs/run"))
    assert state.learning == 3
    assert state.spent.evaluations == 13
    recipes = [model for model in state.population if model.generation > 1]
    assert len(recipes) == 13 - 3 - len(FOUNDERS) - 1 - 2  # the base, the direction and the recipe to start from
    assert state.seconds["learned"] > 0
    assert "after 10 evaluations and derivatives, worth 3.0 more" in outcome.out
    assert (tmp_path / "outputs/run/report.html").exists()


def test_they_are_those_of_finite_differences(tmp_path: Path) -> None:
    """Of the scores of models that the search could make, evaluated for real: one direction's weight up and down."""
    family = write_family(tmp_path / "family")
    assert run(*command(family, tmp_path, "run", DERIVATIVES, "stop.evaluations=12", "keep=all")).status == 0
    (event,) = taken(tmp_path / "run")
    state = replay(events_of(tmp_path / "run"))
    given = {name: family / name for name in ("base", *FOUNDERS)}
    place = {name: given.get(name, tmp_path / "run/models" / name) for name in ("base", *event["directions"])}
    base = Stored(place["base"])
    blocks = Blocks.of("part", geometry(sorted(base)))
    total = WeightedSum(
        base,
        [Stored(place[name]) for name in event["directions"]],
        dict(zip(sorted(base), blocks.members, strict=True)),
    )
    start = weights_of(state.model(event["model"]), event["directions"], blocks)
    assert start is not None
    evaluator = Evaluator(asked(TASKS, family / "tasks", holdout=0.5), seed=0)
    model = evaluator.model(place["base"])

    def scores(weights: np.ndarray) -> np.ndarray:
        total.write(model.model, weights)
        tensors = {name: one.detach().clone() for name, one in model.model.named_parameters()}
        answers = evaluator.evaluate(place["base"], tensors).answers
        assert answers is not None
        values = torch.from_numpy(answers.questions.centred(answers.values.astype(float)[None]))
        return Scorer(answers.questions).smooth(values, torch.zeros_like(values))[0].numpy()

    step, found = 0.01, np.array(event["values"])
    for direction, block in ((0, 2), (2, 3), (len(FOUNDERS), 2)):
        moved = np.zeros_like(start)
        moved[direction, block] = step
        slope = (scores(start + moved) - scores(start - moved)) / (2 * step)
        assert found[:, direction, block] == pytest.approx(slope, abs=0.02 * np.abs(found).max())


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_one_that_was_not(family: Path, tmp_path: Path, kills: int) -> None:
    wanted = (DERIVATIVES, "stop.evaluations=13")
    end_as_one_that_was_not_killed(lambda name: run(*command(family, tmp_path, name, *wanted)).status, tmp_path, kills)


def test_two_processes_take_them_like_one(family: Path, tmp_path: Path) -> None:
    wanted = (DERIVATIVES, "stop.evaluations=13")
    assert run(*command(family, tmp_path, "one", *wanted)).status == 0
    work = lambda rank: run(*command(family, tmp_path, "two", *wanted)).status  # noqa: E731
    assert processes.wait(processes.start(2, work)) == [0, 0]
    one, two = told(tmp_path, "one"), told(tmp_path, "two")
    assert [e for e in one if e["event"] != "started"] == [e for e in two if e["event"] != "started"]


def test_a_budget_that_has_no_room_for_them_is_spent_on_recipes(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*SEARCH, DERIVATIVES)
    assert outcome.status == 0, outcome.err
    state: State = replay(events_of(tmp_path / "outputs/run"))
    assert not taken(tmp_path / "outputs/run")
    assert state.evaluations == 10


def test_what_makes_no_sense_is_refused(evolve: Command, tmp_path: Path) -> None:
    check_refused(evolve(*SEARCH, DERIVATIVES, "evaluate.share=0.5"), "needs models that answered all samples")
    other = "evaluate.evaluator=tests.searched.Searched"
    check_refused(evolve(*SEARCH, DERIVATIVES, other), "which gives none")


def test_tasks_without_choices_have_none_and_alone_are_refused(evolve: Command, tmp_path: Path, family: Path) -> None:
    shutil.copytree(family / "tasks", tmp_path / "tasks")
    for number, name in enumerate(TASKS):
        task = tmp_path / "tasks" / f"{name}.yaml"
        task.write_text(task.read_text().replace("metric: acc\n", "metric: exact_match\n"))
        outcome = evolve(*SEARCH, DERIVATIVES, f"evaluate.include={tmp_path / 'tasks'}", "stop.evaluations=12")
        if number == 0:
            assert outcome.status == 0, outcome.err
            assert taken(tmp_path / "outputs/run")[0]["tasks"] == [TASKS[1]]
            shutil.rmtree(tmp_path / "outputs")
    check_refused(outcome, "no task of evaluate.tasks has choices")
    assert not (tmp_path / "outputs/run").exists()


def test_the_plan_says_what_they_cost(evolve: Command) -> None:
    outcome = evolve(*SEARCH, DERIVATIVES, "dry_run=true")
    assert outcome.status == 0, outcome.err
    assert "derivatives: once" in outcome.out
