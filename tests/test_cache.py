"""What is remembered across runs: the same scores, kinships and weights, without the work."""

import json
import shutil
from pathlib import Path

import pytest

from src.evaluation import evaluator
from src.journal import parse, replay
from src.kinship import measurements
from src.models import merging
from tests.conftest import Command
from tests.test_run import ALL_RULES_OFF, events

COMMAND = ("cache=on", "stop.generations=2", *ALL_RULES_OFF)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this was known already")


def test_a_second_run_evaluates_and_measures_nothing_again(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evolve("name=first", *COMMAND).status == 0
    monkeypatch.setattr(evaluator, "run_tasks", refuse)
    monkeypatch.setattr(measurements, "measure", refuse)
    outcome = evolve("name=second", *COMMAND)
    assert outcome.status == 0, outcome.err
    first, second = events(tmp_path / "outputs", "first"), events(tmp_path / "outputs", "second")
    assert first[1:] == second[1:]
    models = len(replay(first_events(tmp_path)).population)
    assert f"known from other runs: {models} of {models} evaluations (100%)" in outcome.out


def first_events(tmp_path: Path) -> list[dict[str, object]]:
    return parse(tmp_path / "outputs/first/journal.jsonl")[0]


def test_another_strategy_pays_only_for_what_is_new(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolve("name=first", *COMMAND)
    known = {event["fingerprint"] for event in first_events(tmp_path) if "fingerprint" in event}
    real, made = evaluator.Evaluator.evaluate, []

    def count(self: evaluator.Evaluator, folder: Path, *rest: object) -> evaluator.Evaluation:
        made.append(folder.name.lstrip(".").partition(".")[0])
        return real(self, folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluator.Evaluator, "evaluate", count)
    evolve("name=second", "strategy=greedy_topk", *COMMAND)
    found = parse(tmp_path / "outputs/second/journal.jsonl")[0]
    merged = {event["model"]: event["fingerprint"] for event in found if event["event"] == "merged"}
    assert set(made) == {name for name, fingerprint in merged.items() if fingerprint not in known}


def test_merged_weights_are_remembered_only_if_asked(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolve("name=plain", *COMMAND)
    assert not (tmp_path / "outputs/cache/weights").exists()
    evolve("name=first", "cache.weights=true", *COMMAND)
    monkeypatch.setattr(merging, "run_merge", refuse)
    monkeypatch.setattr(merging, "merge_in_memory", refuse)
    outcome = evolve("name=second", "cache.weights=true", *COMMAND)
    assert outcome.status == 0, outcome.err
    assert events(tmp_path / "outputs", "first")[1:] == events(tmp_path / "outputs", "second")[1:]


def test_a_merge_is_not_remembered_for_a_donor_with_another_tokenizer(
    evolve: Command, family: Path, tmp_path: Path
) -> None:
    evolve("name=first", "cache.weights=true", *COMMAND)
    other = Path(shutil.copytree(family, tmp_path / "other"))
    for file in other.glob("*/tokenizer_config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    outcome = evolve("name=second", "cache.weights=true", "keep=all", *COMMAND, at=other)
    assert outcome.status == 0, outcome.err
    made = list((tmp_path / "outputs/second/models").glob("*/tokenizer_config.json"))
    assert made
    assert all(json.loads(file.read_text())["padding_side"] == "left" for file in made)


@pytest.mark.parametrize(
    "change",
    [
        "evaluate.limit=8",
        "seed=1",
        "evaluate.tasks=[pico_words]",
        "evaluate.tasks=[{name: pico_words, metric: acc_norm}]",
    ],
)
def test_nothing_is_remembered_of_another_question(
    evolve: Command, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    evolve("name=first", "stop.generations=1", "cache=on")
    real, made = evaluator.run_tasks, []
    monkeypatch.setattr(evaluator, "run_tasks", lambda *a, **n: (made.append(None), real(*a, **n))[1])
    outcome = evolve("name=second", "stop.generations=1", "cache=on", change)
    assert outcome.status == 0, outcome.err
    assert len(made) == 7


def test_a_mangled_or_deleted_cache_costs_only_time(evolve: Command, tmp_path: Path) -> None:
    evolve("name=first", *COMMAND)
    for file in (tmp_path / "outputs/cache").rglob("*.*"):
        file.write_bytes(file.read_bytes()[:20])
    assert evolve("name=second", *COMMAND).status == 0
    shutil.rmtree(tmp_path / "outputs/cache")
    assert evolve("name=third", *COMMAND).status == 0
    runs = [events(tmp_path / "outputs", name)[1:] for name in ("first", "second", "third")]
    assert runs[0] == runs[1] == runs[2]


def test_another_tokenizer_is_another_question(evolve: Command, family: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    evolve("name=first", "stop.generations=1", "cache=on", at=copy)
    file = copy / "red/tokenizer_config.json"
    file.write_text(file.read_text().replace("{", '{"model_max_length": 60, ', 1))
    evolve("name=second", "stop.generations=1", "cache=on", at=copy)
    found = parse(tmp_path / "outputs/second/journal.jsonl")[0]
    cached = {event["model"]: event["cached"] for event in found if event["event"] == "evaluated"}
    assert not cached["red"]
    assert cached["green"]
