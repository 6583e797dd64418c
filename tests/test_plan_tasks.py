"""dry_run=true: which tasks are asked, of how many samples, and what evaluating takes, measured on a batch."""

import json
import re
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from src.evaluation.evaluator import Evaluator
from src.evaluation.forecast import measure
from src.evaluation.model import ReusableModel
from tests.conftest import Command
from tests.family import SAMPLES, TASKS
from tests.test_evaluate import asked
from tests.test_mistakes import check_refused


def row(out: str, name: str) -> list[str]:
    """A row of the table of tasks: name, samples, held out, shots, metric, weight."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
    return line.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["evaluate.tasks=[pico_vowels]", "evaluate.holdout=0.25"], ["pico_vowels", "18", "6", "0", "acc", "1"]),
        (
            ["evaluate.tasks=[{name: pico_words, metric: acc_norm, weight: 2.5}]", "evaluate.limit=5"],
            ["pico_words", "5", "0", "0", "acc_norm", "2.5"],
        ),
        (
            ["evaluate.tasks=[pico_vowels]", "evaluate.holdout=[pico_words]"],
            ["pico_words", "0", str(SAMPLES), "0", "acc", "1"],
        ),
    ],
    ids=["share", "limit", "other tasks"],
)
def test_the_plan_lists_the_tasks(evolve: Command, given: list[str], expected: list[str]) -> None:
    outcome = evolve("dry_run=true", *given)
    assert outcome.status == 0, outcome.err
    assert row(outcome.out, expected[0]) == expected


def test_tasks_that_are_not_here_are_described_by_their_files(evolve: Command, family: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((family / f"tasks/{TASKS[0]}.yaml").read_text())
    absent = {**config, "task": "absent", "dataset_path": "nobody/nothing", "dataset_kwargs": None, "num_fewshot": 4}
    (tmp_path / "absent.yaml").write_text(yaml.safe_dump(absent))
    outcome = evolve("dry_run=true", "evaluate.tasks=[absent]", f"evaluate.include={tmp_path}", "evaluate.holdout=0.5")
    assert outcome.status == 0, outcome.err
    assert row(outcome.out, "absent") == ["absent", "?", "?", "4", "acc", "1"]
    assert "evaluating: time and memory unknown, since the data of absent are not here yet" in outcome.out
    wrong = evolve("dry_run=true", "evaluate.tasks=[{name: absent, metric: f1}]", f"evaluate.include={tmp_path}")
    check_refused(wrong, "absent has no metric 'f1'. Known: acc, acc_norm.")


def test_a_data_set_that_was_downloaded_before_is_here(
    evolve: Command, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = str(family / f"tasks/{TASKS[0]}.jsonl")
    datasets.load_dataset("json", data_files={"test": data}, cache_dir=str(tmp_path / "made"))
    (made,) = tmp_path.glob("made/json/*/0.0.0/*/")
    known = tmp_path / "cache/some-one___some_thing/default/0.0.0" / ("0" * 40)
    known.parent.mkdir(parents=True)
    made.rename(known)
    (known / "json-test.arrow").rename(known / "some_thing-test.arrow")
    info = json.loads((known / "dataset_info.json").read_text())
    (known / "dataset_info.json").write_text(
        json.dumps({**info, "config_name": "default", "builder_name": "some_thing", "dataset_name": "some_thing"})
    )
    (tmp_path / "tasks").mkdir()
    config = yaml.safe_load((family / f"tasks/{TASKS[0]}.yaml").read_text())
    for name, place in (("there", "some-one/SomeThing"), ("partly", "some-one/other")):
        text = yaml.safe_dump({**config, "task": name, "dataset_path": place, "dataset_kwargs": None})
        (tmp_path / f"tasks/{name}.yaml").write_text(text)
    (tmp_path / "cache/some-one___other").mkdir()
    outcome = evolve("dry_run=true", "evaluate.tasks=[there,partly]", f"evaluate.include={tmp_path / 'tasks'}")
    assert outcome.status == 0, outcome.err
    assert row(outcome.out, "there") == ["there", str(SAMPLES), "0", "0", "acc", "1"]
    assert row(outcome.out, "partly") == ["partly", "?", "0", "0", "acc", "1"]


@pytest.mark.parametrize("longest", [10.0, 0.0], ids=["a batch", "a request"])
def test_the_time_of_an_evaluation_from_one_batch(
    family: Path, monkeypatch: pytest.MonkeyPatch, longest: float
) -> None:
    """Of a model that takes so long for a token: what is measured is the time of all tokens, batch by batch."""
    a_token, answer = 2e-4, ReusableModel.answer

    def slowly(self: ReusableModel, piece: Any, requests: Any) -> list[Any]:
        time.sleep(a_token * piece.batch.tokens.numel())
        return answer(self, piece, requests)

    evaluator = Evaluator(asked(list(TASKS), family / "tasks", batch_size=8), seed=0)
    _, _, all_ = evaluator.prepare(family / "red")
    tokens = sum(piece.batch.tokens.numel() for piece in all_ if piece.batch is not None)
    evaluator.evaluate(family / "red")  # what is done once is done
    monkeypatch.setattr("src.evaluation.forecast.LONGEST", longest)
    monkeypatch.setattr(ReusableModel, "answer", slowly)
    found = measure(evaluator, family / "red")
    assert found.seconds > a_token * tokens
    if longest:  # a single request's own overhead is more
        assert found.seconds < 3 * a_token * tokens + 1
    assert 50e6 < found.memory < 50e9


def test_the_plan_has_time_and_memory_and_knows_what_is_remembered(evolve: Command, tmp_path: Path) -> None:
    cached = "cache=on", f"cache.folder={tmp_path / 'cache'}", "evaluate.holdout=0.5"
    first = evolve("dry_run=true", *cached)
    assert first.status == 0, first.err
    one = r"evaluating a model: about [\d.]+ s, and [\d.]+ s on the holdout, here \(cpu, 1 thread; a batch of red was "
    assert re.search(
        one + r"measured\), [\d.]+ [MG]iB of memory at its peak, and [\d.]+ KiB for an offspring", first.out
    )
    assert re.search(r"all evaluations: at most about [\d.]+ s by one process\n", first.out)
    assert not (tmp_path / "cache").exists()
    assert evolve("stop.generations=1", "strategy.k=2", *cached).status == 0
    then = evolve("dry_run=true", *cached).out
    assert re.search(r"all evaluations: .* by one process; known from other runs: those of 4 founders\n", then)
    unbounded = evolve("dry_run=true", *cached, "stop.generations=null").out
    assert "all evaluations: no bound; known from other runs: those of 4 founders\n" in unbounded
    other = evolve("dry_run=true", *cached, "evaluate.limit=3").out
    assert "known from other runs" not in other


def test_a_model_that_is_too_large_is_not_measured(evolve: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    outcome = evolve("dry_run=true")
    assert outcome.status == 0, outcome.err
    assert re.search(
        r"evaluating: time and memory unknown, since a model has [\d.]+ KiB, and [\d.]+ \w+ of memory are free",
        outcome.out,
    )
