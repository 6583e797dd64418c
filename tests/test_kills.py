"""SIGKILL at any moment: the journal ends as if nothing had happened, and nothing finished is done twice."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from src.evaluation import candidates
from src.evaluation.evaluator import Evaluation
from src.journal import parse
from src.models import digest
from src.models.checkpoint import tensors_of
from tests.conftest import run
from tests.family import FOUNDERS, TASKS
from tests.test_run import ALL_RULES_OFF, events


class FakeEvaluator:
    """Stands in for lm-eval, whose requests would take hours here: scores that follow from a model's very weights."""

    in_memory = True
    _part: int | None = None

    def __init__(self, *_: object, side: str = "select", **__: object) -> None:
        self.identity = side
        self._event = {"select": "evaluated", "holdout": "held_out"}[side]
        self.holdout = FakeEvaluator(side="holdout") if side == "select" else None

    def part(self, number: int) -> "FakeEvaluator":
        """Another, whose scores are others."""
        part = FakeEvaluator()
        part.identity, part._part = f"part {number}", number
        return part

    def evaluate(self, folder: Path, tensors: dict[str, Any] | None, *_: object) -> Evaluation:
        """Scores of a model whose journal must not know them yet, and must know no other merge of it."""
        run_folder = next((p for p in folder.parents if (p / "journal.jsonl").exists()), None)
        content = tensors_of(folder) if tensors is None else tensors
        fingerprint = digest.of_tensors(content, json.loads((folder / "config.json").read_text()))
        if run_folder is not None:
            found, _ = parse(run_folder / "journal.jsonl")
            name = folder.name.lstrip(".").partition(".")[0]
            merged = {event["model"]: event["fingerprint"] for event in found if event["event"] == "merged"}
            assert merged.get(name, fingerprint) == fingerprint, "a model was read that is not what was merged"
            mine = [e for e in found if e["event"] == self._event and e["model"] == name]
            assert not any(e.get("part") == self._part for e in mine), "scored twice"
        time.sleep(0.01)
        draw = random.Random(f"{fingerprint} {self.identity}")
        scores = {task: draw.uniform(40, 60) for task in TASKS}
        samples: Mapping[str, Mapping[int, float]] = {task: {0: score} for task, score in scores.items()}
        weights = {task: 1 / len(scores) for task in scores}
        return Evaluation(scores, sum(scores.values()) / len(scores), 1.0, samples, weights)


def in_child(work: Callable[[], int]) -> int:
    """The process id of a child that does the work and leaves with what it returns; everything is imported already."""
    if pid := os.fork():
        return pid
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    status = 99
    try:
        status = work()
    finally:
        os._exit(status)


@pytest.mark.parametrize(
    ("times", "evaluator"),
    [(12, "fake"), pytest.param(100, "fake", marks=pytest.mark.slow), (3, "real")],
)
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, evaluator: str
) -> None:
    if evaluator == "fake":
        monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)
    models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)

    def start(name: str) -> int:
        return run(
            *(
                "strategy=kinship_topk",
                "founders=local",
                f"founders.base={family / 'base'}",
                f"founders.models={{{models}}}",
            ),
            *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}"),
            *(f"outputs={tmp_path}", f"name={name}", "track=none", "cache=off", "workers.threads=1"),
            *("stop.generations=3", "merge=dare_ties", "evaluate.holdout=0.5", *ALL_RULES_OFF),
        ).status

    end_as_one_that_was_not_killed(start, tmp_path, times)


def end_as_one_that_was_not_killed(start: Callable[[str], int], outputs: Path, times: int) -> None:
    """Kill runs that `start` begins under the name that it is given, so many times, and resume each until it ends."""
    began = time.monotonic()
    assert start("whole") == 0
    usual = time.monotonic() - began
    expected = [event for event in events(outputs, "whole") if event["event"] != "started"]
    draw, kills, runs = random.Random(times), 0, 0
    while kills < times:
        name = f"run-{runs}"
        runs += 1
        status = -1
        while status != 0:
            pid = in_child(lambda name=name: start(name))  # type: ignore[misc]
            moment = draw.uniform(0, 1.2 * usual) if kills < times else 60.0
            deadline = time.monotonic() + moment
            ended = 0
            while not ended and time.monotonic() < deadline:
                ended, wait = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.002)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                _, wait = os.waitpid(pid, 0)
                kills += 1
            status = os.waitstatus_to_exitcode(wait)
            assert status in {0, -signal.SIGKILL}
        final = [event for event in events(outputs, name) if event["event"] != "started"]
        assert final == expected
        left = [path for path in (outputs / name).rglob("*") if ".partial" in path.name or ".deleted" in path.name]
        assert left == []
