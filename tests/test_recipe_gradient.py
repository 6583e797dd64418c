"""Learned recipes through the front door: candidates, costs, budgets; killed, lost, by two processes; export."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.journal import events_of, replay
from src.learning.passes import Passes
from src.rebuild import main as rebuild
from src.runtime import checksums
from tests import processes
from tests.conftest import Command, run
from tests.family import FOUNDERS, SAMPLES, TASKS
from tests.test_kills import end_as_one_that_was_not_killed
from tests.test_mistakes import check_refused
from tests.test_processes import told

LEARN = ("strategy=recipe_gradient", "stop.evaluations=null")
QUICK = (*LEARN, "strategy.batch=8", "strategy.steps=2", "strategy.every=1", "strategy.total=6", "strategy.rate=0.02")


def command(family: Path, outputs: Path, name: str, *overrides: str) -> list[str]:
    models = ",".join(f"{founder}:{family / founder}" for founder in FOUNDERS)
    return [
        *("founders=local", f"founders.base={family / 'base'}", f"founders.models={{{models}}}"),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.holdout=0.5"),
        *(f"outputs={outputs}", f"name={name}", "track=none", "cache=off", "workers.threads=1"),
        *(*QUICK, *overrides),
    ]


def lessons(outputs: Path, name: str = "run") -> list[dict[str, Any]]:
    return [event for event in events_of(outputs / name) if event["event"] == "learned"]


def test_it_makes_the_direction_then_what_it_learned_and_counts_what_that_cost(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*QUICK)
    assert outcome.status == 0, outcome.err
    outputs = tmp_path / "outputs"
    state = replay(events_of(outputs / "run"))
    first = state.population["1-1"].merge
    assert first is not None
    assert first["method"] == "wudi"
    learned = lessons(outputs)
    assert len(learned) >= 2
    assert [one["kept_back"] for one in learned] == sorted((one["kept_back"] for one in learned), reverse=True)
    for one in learned:
        candidate = state.population[f"{one['generation']}-1"]
        assert candidate.merge is not None
        assert candidate.merge["method"] == "task_arithmetic"
        filters = [each["weight"] for each in candidate.merge["each"]]
        assert any(isinstance(weight, list) and len(weight) > 5 for weight in filters)  # by tensor
    kept = 2 * round(0.25 * SAMPLES)
    assert sum(one["back"] for one in learned) == 8 * learned[-1]["steps"]
    assert learned[0]["forward"] == 8 * 2 + 2 * kept  # the look before the first step, too
    passes = sum(one["forward"] + 2 * one["back"] for one in learned)
    assert state.learning == pytest.approx(passes / (2 * SAMPLES))
    assert state.samples == 2 * SAMPLES * state.evaluations + passes
    assert f"and {learned[-1]['steps']} gradient steps, worth {state.learning:.1f} more" in outcome.out
    assert "nothing better is left to learn" in outcome.out
    assert (outputs / "run/report.html").exists()


def test_a_learned_recipe_is_rebuilt_byte_for_byte(evolve: Command, tmp_path: Path) -> None:
    assert evolve(*QUICK, "keep=all").status == 0
    folder = tmp_path / "outputs/run"
    made = sorted(path.name for path in (folder / "models").iterdir() if path.name > "1-1")
    assert made
    before = (folder / f"models/{made[-1]}/model.safetensors").read_bytes()
    shutil.rmtree(folder / "models")
    assert rebuild([str(folder), made[-1]]) == 0
    assert (folder / f"models/{made[-1]}/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_one_that_was_not(family: Path, tmp_path: Path, kills: int) -> None:
    end_as_one_that_was_not_killed(lambda name: run(*command(family, tmp_path, name)).status, tmp_path, kills)


@pytest.mark.parametrize("damage", ["lost", "torn", "another's"])
def test_what_was_learned_is_learned_again_where_it_was_lost(
    family: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command(family, tmp_path, "whole")).status == 0
    assert run(*command(family, tmp_path, "run", "stop.generations=2")).status == 0
    file = tmp_path / "run/learning.json"
    content = file.read_bytes()
    if damage == "lost":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(checksums.dump({**checksums.load(content), "key": "of something else"}))
    outcome = run(*command(family, tmp_path, "run", "resume=force"))
    assert outcome.status == 0, outcome.err
    assert ("checksum does not match its content; it is learned again" in outcome.err) == (damage == "torn")
    strip = [{k: v for k, v in one.items() if k not in {"n", "crc", "seconds"}} for one in lessons(tmp_path, "run")]
    assert strip == [
        {k: v for k, v in one.items() if k not in {"n", "crc", "seconds"}} for one in lessons(tmp_path, "whole")
    ]


def noting(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[], Counter[str]]:
    """What counts, from now on, the parts of orders that every process does, by its number."""
    do = Passes.piece

    def piece(self: Passes, order: Any) -> Callable[[int], Any]:
        def noted(number: int) -> Any:
            with (folder / "parts").open("a") as file:
                file.write(f"{os.environ.get('RANK', '0')}\n")
            time.sleep(0.02)  # so that there is something left for others
            return do(self, order)(number)

        return noted

    monkeypatch.setattr(Passes, "piece", piece)
    return lambda: Counter((folder / "parts").read_text().split())


def test_two_processes_learn_together_what_one_learns(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit where the parts of a batch are the same, and to rounding where each takes half."""
    parts = noting(monkeypatch, tmp_path)
    work = lambda *words: lambda rank: run(*command(family, tmp_path, *words)).status  # noqa: E731
    assert processes.wait(processes.start(1, work("one", "strategy.at_once=2"))) == [0]
    alone = parts()["0"]
    assert processes.wait(processes.start(2, work("two", "strategy.at_once=2"))) == [0, 0]
    assert sum(parts().values()) == 2 * alone
    assert parts()["1"] > 0
    one, two = told(tmp_path, "one"), told(tmp_path, "two")
    assert [e for e in one if e["event"] != "started"] == [e for e in two if e["event"] != "started"]
    assert processes.wait(processes.start(1, work("whole", "stop.generations=2"))) == [0]
    assert processes.wait(processes.start(2, work("halves", "stop.generations=2"))) == [0, 0]
    whole, halves = (lessons(tmp_path, name)[0] for name in ("whole", "halves"))
    assert halves["kept_back"] == pytest.approx(whole["kept_back"], rel=1e-4)
    assert halves["weights"] == pytest.approx(whole["weights"], abs=1e-4)


def test_a_process_that_cannot_assist_changes_nothing(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting(monkeypatch, tmp_path)
    do = Passes.piece
    monkeypatch.setattr(Passes, "piece", lambda self, order: None if os.environ.get("RANK") == "1" else do(self, order))

    def work(rank: int) -> int:
        outcome = run(*command(family, tmp_path, "two", "strategy.at_once=2"))
        (tmp_path / f"said.{rank}").write_text(outcome.err)
        return outcome.status

    assert processes.wait(processes.start(2, work)) == [0, 0]
    warning = "warning: generation 1, proposals: process 1 could not, TypeError: 'NoneType' object is not callable"
    assert warning in (tmp_path / "said.0").read_text()
    monkeypatch.undo()
    assert run(*command(family, tmp_path, "one", "strategy.at_once=2")).status == 0
    one, two = told(tmp_path, "one"), told(tmp_path, "two")
    assert [e for e in one if e["event"] != "started"] == [e for e in two if e["event"] != "started"]


def test_the_budget_of_evaluations_has_room_for_what_is_learned(evolve: Command, tmp_path: Path) -> None:
    assert evolve(*QUICK, "stop.evaluations=8").status == 0
    state = replay(events_of(tmp_path / "outputs/run"))
    assert lessons(tmp_path / "outputs")
    assert state.evaluations + state.learning <= 8
    assert state.evaluations == len(FOUNDERS) + 2  # the direction, and the last candidate


def test_a_strong_prior_holds_weights_where_they_started(evolve: Command, tmp_path: Path) -> None:
    moved = []
    for name, prior in (("free", 0.0), ("held", 1e4)):
        assert evolve(*QUICK, f"strategy.prior={prior}", "stop.generations=2", f"name={name}").status == 0
        content = checksums.load((tmp_path / "outputs" / name / "learning.json").read_bytes())
        weights = np.array(content["course"]["weights"])
        moved.append(float(np.abs(weights - np.array(content["course"]["looks"][0]["weights"])).max()))
    assert moved[1] < moved[0]


def test_who_is_to_agree_with_the_best_founder_and_is_that_founder_has_nothing_to_learn(
    evolve: Command, tmp_path: Path
) -> None:
    outcome = evolve(*QUICK, "strategy.objective_loss=agreement", "strategy.patience=2", "evaluate.limit=12")
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    (best,) = {max(FOUNDERS, key=lambda name: state.population[name].scores[task]) for task in TASKS}
    looks = checksums.load((tmp_path / "outputs/run/learning.json").read_bytes())["course"]["looks"]
    assert state.population.best(1)[0].name == best
    assert looks[0]["kept_back"] == pytest.approx(0, abs=1e-6)
    assert [one["steps"] for one in lessons(tmp_path / "outputs")] == [4]
    assert state.population.generation == 1
    assert state.base is not None
    assert state.base.average is None


def test_without_directions_it_starts_from_the_founders(evolve: Command, tmp_path: Path) -> None:
    options = ("strategy.directions=null", "strategy.start=0.4", "strategy.blocks=part", "stop.generations=2")
    outcome = evolve(*QUICK, *options, "strategy.checkpointing=true", "strategy.at_once=3")
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    first = state.population["1-1"].merge
    assert first is not None
    assert first["each"] == [{"weight": 0.4}] * len(FOUNDERS)
    assert set(lessons(tmp_path / "outputs")[0]["weights"]) == set(FOUNDERS)


def test_where_nothing_can_be_learned_from_it_is_refused_before_any_work(
    evolve: Command, tmp_path: Path, family: Path
) -> None:
    for options, words in (
        (["evaluate.backend=vllm"], "which follows gradients, and evaluate.backend=vllm, which gives none"),
        (["evaluate.evaluator=tests.a.B"], "which follows gradients, and evaluate.evaluator=tests.a.B"),
        (["strategy.kept_back=1"], "strategy.kept_back is 1; should be less than 1"),
        (["strategy.blocks=tensors"], "strategy.blocks is 'tensors'"),
        (["strategy.rate=0"], "strategy.rate is 0; should be greater than 0"),
    ):
        check_refused(evolve("strategy=recipe_gradient", *options), words)
    shutil.copytree(family / "tasks", tmp_path / "tasks")
    task = tmp_path / "tasks" / f"{TASKS[0]}.yaml"
    task.write_text(task.read_text().replace("metric: acc\n", "metric: exact_match\n"))
    outcome = evolve("strategy=recipe_gradient", f"evaluate.include={tmp_path / 'tasks'}")
    check_refused(outcome, f"task {TASKS[0]}: strategy.name=recipe_gradient learns which of several choices")
    assert not (tmp_path / "outputs/run").exists()
