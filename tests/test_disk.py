"""What a run leaves on disk: copies by which nobody else's file can be reached, readable by the team, and no more."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.evaluation import candidates
from src.evaluation.evaluator import Evaluation
from src.journal import State, parse, replay
from src.kinship import measurements
from src.models import merging
from src.runtime import files
from tests import processes
from tests.conftest import Command
from tests.test_kills import FakeEvaluator, in_child
from tests.test_run import ALL_RULES_OFF, events

SHORT = ("stop.generations=1", *ALL_RULES_OFF)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that follow from the weights, at once."""
    monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)


def state(outputs: Path, name: str = "run") -> State:
    return replay(parse(outputs / name / "journal.jsonl")[0])


def without_start(outputs: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events(outputs, name) if event["event"] != "started"]


def scribble(folder: Path) -> None:
    """Write into every file of a folder, as an editor or a program that goes on training would."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"scribble")


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


# --- copies ----------------------------------------------------------------------------------------------------------


class Favouring(FakeEvaluator):
    """Thinks most of a founder, or of an offspring."""

    offspring = True

    def evaluate(self, folder: Path, *rest: Any) -> Evaluation:
        found = super().evaluate(folder, *rest)
        return replace(found, average=90.0 if (folder.parent.name == "models") == self.offspring else 10.0)


@pytest.mark.parametrize("offspring", [False, True])
def test_writing_into_the_winner_s_folder_changes_nobody_s_file(
    evolve: Command, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offspring: bool
) -> None:
    """Not the user's checkpoint, which may be a link into the hub's cache, nor any run's models, nor our cache."""
    monkeypatch.setattr(candidates, "Evaluator", Favouring)
    monkeypatch.setattr(Favouring, "offspring", offspring)
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    for name in ("base", "red", "green", "blue", "grey"):
        (copy / name / "model.safetensors").rename(copy / f"blob-{name}")
        (copy / name / "model.safetensors").symlink_to(copy / f"blob-{name}")
    command = ("cache=on", "cache.weights=true", "keep=all", *SHORT)
    for name in ("first", "second"):
        assert evolve(f"name={name}", *command, at=copy).status == 0
    outputs = tmp_path / "outputs"
    assert state(outputs, "second").population.best(1)[0].founder != offspring
    others = (copy, outputs / "cache", outputs / "first", outputs / "second/models")
    before = contents(*others)
    scribble(outputs / "second/best")
    assert contents(*others) == before
    assert evolve("name=third", *command, at=copy).status == 0


def test_what_is_written_to_the_cache_s_weights_reaches_no_run(evolve: Command, tmp_path: Path) -> None:
    command = ("cache=on", "cache.weights=true", "keep=all", *SHORT)
    for name in ("first", "second"):
        assert evolve(f"name={name}", *command).status == 0
    runs = (tmp_path / "outputs/first", tmp_path / "outputs/second")
    before = contents(*runs)
    scribble(tmp_path / "outputs/cache/weights")
    assert contents(*runs) == before


def test_a_copy_is_whole_where_blocks_can_be_shared_and_where_they_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(os.urandom(300_000))
    asked = []

    def refuse(*request: Any) -> None:
        asked.append(request[1])
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "ioctl", refuse)
    files.copy(tmp_path / "a", tmp_path / "b")
    assert asked == [0x40049409]
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_nlink == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_a_team_can_read_what_its_umask_says(evolve: Command, tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        assert evolve("cache=on", "cache.weights=true", "keep=all", *SHORT).status == 0
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "outputs").rglob("*") if path.suffix in {".json", ".npz", ".jinja"}]
    made = [path for path in made if "models" not in path.parts]  # those are mergekit's
    assert {path.parent.name for path in made} >= {"evaluations", "kinship", "samples", "run", "best"}
    assert {path: oct(path.stat().st_mode & 0o777) for path in made} == dict.fromkeys(made, oct(mode))
    folders = {path for path in (tmp_path / "outputs/cache").rglob("*") if path.is_dir()}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o777 & ~umask}


# --- no more than is needed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["survivors", "best"])
def test_a_run_that_goes_on_after_its_end_makes_again_what_it_needs(evolve: Command, tmp_path: Path, keep: str) -> None:
    assert evolve("name=whole", f"keep={keep}", "stop.generations=3", *ALL_RULES_OFF).status == 0
    assert evolve(f"keep={keep}", "stop.generations=2", *ALL_RULES_OFF).status == 0
    assert list((tmp_path / "outputs/run/models").iterdir()) == []
    assert evolve(f"keep={keep}", "stop.generations=3", "resume=force", *ALL_RULES_OFF).status == 0
    kinds = ("selected", "merged", "measured", "evaluated")
    long, short = (
        [event for event in events(tmp_path / "outputs", name) if event["event"] in kinds] for name in ("whole", "run")
    )
    assert long == short


def test_what_killed_writers_left_is_cleared_at_the_next_start(evolve: Command, tmp_path: Path) -> None:
    assert evolve("cache=on", "evaluate.holdout=0.5", *SHORT).status == 0
    dead = in_child(lambda: 0)
    os.waitpid(dead, 0)
    run, cache = tmp_path / "outputs/run", tmp_path / "outputs/cache"
    places = [run, run / "samples", run / "samples/holdout", run / "models", cache / "evaluations", cache / "kinship"]
    here, there = f"{socket.gethostname()}.{dead}.1.partial", f"elsewhere.{dead}.1.partial"
    for place in places:
        (place / f".file.json.{here}").write_text("half")
        (place / f".folder.{here}").mkdir()
        (place / f".folder.{here}" / "model.safetensors").write_text("half")
        (place / f".folder.{there}").mkdir()
    assert evolve("cache=on", "evaluate.holdout=0.5", *SHORT).status == 0
    left = sorted((tmp_path / "outputs").rglob("*.partial"))
    # Of another host's writers nobody knows whether they live; but nobody else may write in the folder of a run.
    assert left == [cache / "evaluations" / f".folder.{there}", cache / "kinship" / f".folder.{there}"]


# --- a cache that cannot be used -------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system for the cache: as root, whom permissions would not stop."""
    folder = tmp_path / "cache"
    folder.mkdir()

    def mount(options: str) -> Path:
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
            pytest.skip("no file system may be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def one_warning(evolve: Command, tmp_path: Path, folder: Path, what: str) -> None:
    command = ("cache.weights=true", *SHORT)
    assert evolve("name=without", "cache=off", *SHORT).status == 0
    outcome = evolve(f"cache.folder={folder}", "cache=on", *command)
    assert outcome.status == 0, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"warning: {folder}: the cache cannot be {what} ")
    assert line.endswith("; the run goes on without it")
    assert without_start(tmp_path / "outputs", "run") == without_start(tmp_path / "outputs", "without")


def test_a_run_goes_on_without_a_cache_that_is_read_only(
    evolve: Command, tmp_path: Path, mounted: Callable[[str], Path]
) -> None:
    one_warning(evolve, tmp_path, mounted("ro"), "written")


def test_a_run_goes_on_without_a_cache_that_is_full(
    evolve: Command, tmp_path: Path, mounted: Callable[[str], Path]
) -> None:
    one_warning(evolve, tmp_path, mounted("size=16k"), "written")


def test_a_run_goes_on_without_a_cache_that_is_gone_and_its_place_taken(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "cache", measurements.Measurements.extend

    def pulled(self: measurements.Measurements, *rest: Any) -> bool:
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.write_text("no folder")
        return real(self, *rest)

    monkeypatch.setattr(measurements.Measurements, "extend", pulled)
    one_warning(evolve, tmp_path, folder, "read")


def test_a_read_only_cache_still_tells_what_it_knows(
    evolve: Command, tmp_path: Path, mounted: Callable[[str], Path]
) -> None:
    folder = mounted("size=8m")
    command = (f"cache.folder={folder}", "cache=on", *SHORT)
    assert evolve("name=first", *command).status == 0
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    outcome = evolve("name=second", *command)
    assert (outcome.status, outcome.err) == (0, "")
    assert "7 of 7 evaluations (100%)" in outcome.out


# --- merged is merged ------------------------------------------------------------------------------------------------


class Deadly(FakeEvaluator):
    """The process does not survive the evaluation of 1-2, whose weights lie on disk by then."""

    def evaluate(self, folder: Path, *rest: Any) -> Evaluation:
        if folder.name == "1-2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(folder, *rest)


@pytest.mark.parametrize("count", [1, 2])
def test_a_merge_that_was_finished_is_not_repeated_though_its_evaluation_was_cut_short(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    command = ("keep=all", "workers.timeout=2", *SHORT)
    assert evolve("name=whole", *command).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "Evaluator", Deadly)
        status = processes.wait(processes.start(count, lambda _: evolve(*command).status))
    assert -signal.SIGKILL in status
    run = tmp_path / "outputs/run"
    there = {folder.name for folder in (run / "models").iterdir() if not folder.name.startswith(".")}
    assert "1-2" in there
    told = [event.get("model") for event in events(tmp_path / "outputs") if event["event"] == "merged"]
    if count == 1:
        assert told == ["1-1", "1-2"], "what is finished is told when it is finished"
    real, made = merging.merge_in_memory, []

    def counted(recipe: merging.Recipe, models: Any, shell: Path, **options: Any) -> Any:
        made.append(shell.name.lstrip(".").partition(".")[0])
        return real(recipe, models, shell, **options)

    monkeypatch.setattr(merging, "merge_in_memory", counted)
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert set(made) == {"1-1", "1-2", "1-3"} - there
    assert without_start(tmp_path / "outputs", "run") == without_start(tmp_path / "outputs", "whole")
    before, after = contents(run / "models"), contents(tmp_path / "outputs/whole/models")
    assert {path.relative_to(run): data for path, data in before.items() if path.suffix == ".safetensors"} == {
        path.relative_to(tmp_path / "outputs/whole"): data
        for path, data in after.items()
        if path.suffix == ".safetensors"
    }
