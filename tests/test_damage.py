"""What lies on disk is held against its checksum before it is used: what was damaged or swapped is made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src import rebuild
from src.evaluation import candidates, holdout
from src.journal import parse
from src.report import overview
from src.report.run_data import load
from src.runtime import checksums
from tests.conftest import Command, Outcome
from tests.test_kills import FakeEvaluator
from tests.test_run import ALL_RULES_OFF, events

Damage = Callable[[Path, Path], None]
"""Does something to the first file or folder; the second is another one of its kind."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that follow from the weights, at once."""
    monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-300] ^= 1  # a weight's or a number's lowest bit
    path.write_bytes(data)


def swapped(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def better(path: Path, other: Path) -> None:
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "average": 99.0, "scores": dict.fromkeys(kept["scores"], 99.0)}))


def old(path: Path, other: Path) -> None:
    kept = json.loads(path.read_text())
    del kept["checksum"]
    path.write_text(json.dumps(kept))


def poorer(path: Path, other: Path) -> None:
    kept = checksums.load(path.read_bytes())
    del kept["samples"]
    path.write_bytes(checksums.dump(kept))


def mistyped(path: Path, other: Path) -> None:
    kept = checksums.load(path.read_bytes())
    path.write_bytes(checksums.dump({**kept, "scores": "all of them", "weights": [1]}))


OF_JSON = [cut, swapped, emptied, better, old, poorer, mistyped]


def one_warning(outcome: Outcome, words: str) -> None:
    assert outcome.status == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if words in line and line.startswith("warning: ")] != []
    assert len([line for line in outcome.err.splitlines() if "less than half is kept" not in line]) == 1, outcome.err


def without_start(outputs: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events(outputs, name) if event["event"] != "started"]


# --- the cache -------------------------------------------------------------------------------------------------------

SHORT = ("stop.generations=1", *ALL_RULES_OFF)


@pytest.fixture
def cached(evolve: Command, tmp_path: Path, fake: None) -> tuple[Command, Path]:
    """A run has filled the cache, its weights too."""
    command = ("cache=on", "cache.weights=true", "keep=all", *SHORT)
    assert evolve("name=first", *command).status == 0
    return lambda name: evolve(f"name={name}", *command), tmp_path / "outputs/cache"


@pytest.mark.parametrize("damage", OF_JSON)
def test_an_evaluation_of_the_cache_that_cannot_be_believed_is_a_miss(
    cached: tuple[Command, Path], tmp_path: Path, damage: Damage
) -> None:
    again, folder = cached
    path, other, *_ = sorted((folder / "evaluations").iterdir())
    damage(path, other)
    one_warning(again("second"), "does not match its checksum")
    assert without_start(tmp_path / "outputs", "first") == without_start(tmp_path / "outputs", "second")
    assert again("third").err == ""
    third = parse(tmp_path / "outputs/third/journal.jsonl")[0]
    assert all(event["cached"] for event in third if event["event"] in {"evaluated", "merged", "measured"})


@pytest.mark.parametrize("damage", [cut, flipped, swapped, emptied])
def test_kinship_of_the_cache_that_cannot_be_believed_is_a_miss(
    cached: tuple[Command, Path], tmp_path: Path, damage: Damage
) -> None:
    again, folder = cached
    path, other = sorted((folder / "kinship").iterdir(), key=lambda file: -file.stat().st_size)
    damage(path, other)
    one_warning(again("second"), "does not match its checksum")
    assert without_start(tmp_path / "outputs", "first") == without_start(tmp_path / "outputs", "second")


def whole_swapped(path: Path, other: Path) -> None:
    shutil.rmtree(path.parent)
    shutil.copytree(other.parent, path.parent)


def more(path: Path, other: Path) -> None:
    (path.parent / "added_tokens.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, flipped, swapped, emptied, more, whole_swapped])
def test_weights_of_the_cache_that_cannot_be_believed_are_a_miss(
    cached: tuple[Command, Path], tmp_path: Path, damage: Damage
) -> None:
    again, folder = cached
    path, other, *_ = sorted((folder / "weights").glob("*/model.safetensors"))
    damage(path, other)
    one_warning(again("second"), "does not match its checksum")
    assert without_start(tmp_path / "outputs", "first") == without_start(tmp_path / "outputs", "second")
    assert again("third").err == ""


def test_weights_that_an_earlier_version_remembered_without_checksums_are_replaced(
    cached: tuple[Command, Path], tmp_path: Path
) -> None:
    again, folder = cached
    for manifest in (folder / "weights").glob("*/checksums.json"):
        manifest.unlink()
    assert again("second").status == 0
    assert without_start(tmp_path / "outputs", "first") == without_start(tmp_path / "outputs", "second")
    assert len(list((folder / "weights").glob("*/checksums.json"))) == len(list((folder / "weights").iterdir()))


# --- samples ---------------------------------------------------------------------------------------------------------


def back_to(outputs: Path, event: str, model: str) -> list[dict[str, Any]]:
    """The whole journal, which afterwards ends before this event: as if the run had been killed there."""
    path = outputs / "run/journal.jsonl"
    whole = events(outputs)
    at = next(n for n, one in enumerate(whole) if one["event"] == event and one.get("model") == model)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:at]))
    return whole


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("damage", OF_JSON)
def test_samples_that_cannot_be_believed_are_made_again(evolve: Command, tmp_path: Path, damage: Damage) -> None:
    evolve(*SHORT)
    whole = back_to(tmp_path / "outputs", "evaluated", "1-2")
    samples = tmp_path / "outputs/run/samples"
    before = (samples / "1-2.json").read_bytes()
    damage(samples / "1-2.json", samples / "1-1.json")
    outcome = evolve(*SHORT)
    assert outcome.status == 0, outcome.err
    assert events(tmp_path / "outputs") == whole
    assert (samples / "1-2.json").read_bytes() == before
    if damage is not swapped:  # what is of another question is no damage
        one_warning(outcome, "1-2.json: ")


@pytest.mark.parametrize("side", holdout.SIDES)
def test_samples_that_were_damaged_after_the_journal_told_of_them_are_made_again_to_be_compared(
    evolve: Command, tmp_path: Path, side: str
) -> None:
    command = ("evaluate.holdout=0.5", *SHORT)
    evolve(*command)
    told = next(e for e in events(tmp_path / "outputs") if e["event"] == "compared" and e["side"] == side)
    whole = events(tmp_path / "outputs")
    journal = tmp_path / "outputs/run/journal.jsonl"
    first = next(n for n, event in enumerate(whole) if event["event"] == "compared")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:first]))
    better(holdout.place(tmp_path / "outputs/run", str(told["winner"]), side), journal)
    holdout.place(tmp_path / "outputs/run", str(told["founder"]), side).unlink()
    one_warning(evolve(*command), f"{told['winner']}.json: its checksum does not match")
    assert events(tmp_path / "outputs") == whole


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("damage", [cut, better, old, poorer, mistyped, swapped])
def test_samples_that_cannot_be_believed_reach_no_report_and_no_comparison(
    evolve: Command, tmp_path: Path, damage: Damage
) -> None:
    evolve(*SHORT)
    run = tmp_path / "outputs/run"
    winner = load(run).winner.name
    other = next(name for name in ("red", "green") if name != winner)
    damage(run / f"samples/{winner}.json", run / f"samples/{other}.json")
    story = load(run)
    assert winner not in story.samples
    assert other in story.samples
    assert any(f"{winner}.json cannot be read" in warning for warning in overview.warnings(story))
    assert holdout.compare(run, story.state, "select") is None


# --- the weights of a run --------------------------------------------------------------------------------------------

LONG = ("keep=all", "stop.generations=2", *ALL_RULES_OFF)


def tokenizer_cut(path: Path, other: Path) -> None:
    cut(path.parent / "tokenizer.json", other)


def config_edited(path: Path, other: Path) -> None:
    file = path.parent / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_theta": 5.0}))


def weights_gone(path: Path, other: Path) -> None:
    path.unlink()


OF_WEIGHTS = [cut, flipped, swapped, emptied, tokenizer_cut, config_edited, weights_gone]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("at", "damage"),
    [*((("selected", None), damage) for damage in OF_WEIGHTS), (("evaluated", "1-1"), cut), (("merged", "1-1"), cut)],
)
def test_an_offspring_that_is_not_what_was_merged_is_made_again(
    evolve: Command, tmp_path: Path, at: tuple[str, str | None], damage: Damage
) -> None:
    """Before it becomes a parent; before it is scored; before the journal tells that it was merged."""
    evolve(*LONG)
    run = tmp_path / "outputs/run"
    event, model = at
    whole = events(tmp_path / "outputs")
    cuts = [n for n, one in enumerate(whole) if one["event"] == event and one.get("model") == model]
    journal = run / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[: cuts[-1]]))
    before = {path: path.read_bytes() for path in (run / "models").rglob("*.*") if path.is_file()}
    before = {path: content for path, content in before.items() if path.name != "merge.note"}  # it has the time
    path = run / "models/1-1/model.safetensors"
    damage(path, run / "models/1-2/model.safetensors")
    outcome = evolve(*LONG)
    assert outcome.status == 0, outcome.err
    assert f"warning: {run / 'models/1-1'} is not what was merged there" in outcome.err
    assert len([line for line in outcome.err.splitlines() if "less than half is kept" not in line]) == 1
    assert events(tmp_path / "outputs") == whole
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("damage", [cut, tokenizer_cut])
def test_a_damaged_offspring_is_not_what_rebuild_hands_out(
    evolve: Command, tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    evolve(*LONG)
    run = tmp_path / "outputs/run"
    path, other = run / "models/1-1/model.safetensors", run / "models/1-2/model.safetensors"
    before = path.read_bytes()
    damage(path, other)
    assert rebuild.main([str(run), "1-1"]) == 0
    assert "models/1-1 is not what was merged there" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.usefixtures("fake")
def test_weights_of_another_run_under_the_same_name_are_not_taken_for_this_one_s(
    evolve: Command, tmp_path: Path
) -> None:
    evolve("name=other", "merge=linear", *LONG)
    evolve("name=fresh", *LONG)
    shutil.copytree(tmp_path / "outputs/other/models", tmp_path / "outputs/run/models")
    assert evolve(*LONG).status == 0
    assert without_start(tmp_path / "outputs", "run") == without_start(tmp_path / "outputs", "fresh")
    for file in (tmp_path / "outputs/fresh/models").rglob("*.safetensors"):
        relative = file.relative_to(tmp_path / "outputs/fresh")
        assert (tmp_path / "outputs/run" / relative).read_bytes() == file.read_bytes()
