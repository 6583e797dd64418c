"""Candidates that fail, weights that are deleted, runs that are stopped and taken up again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import rebuild
from src.evaluation import evaluator, model
from src.journal import State, parse, replay
from src.models import merging, store
from src.runtime import signals
from tests.conftest import Command
from tests.test_run import ALL_RULES_OFF, events


def state(outputs: Path, name: str = "run") -> State:
    return replay(parse(outputs / name / "journal.jsonl")[0])


# --- candidates that fail --------------------------------------------------------------------------------------------


def test_an_offspring_with_nan_weights_is_left_out_and_the_run_goes_on(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = merging.merge_in_memory

    def sometimes_nan(recipe: merging.Recipe, models: dict[str, Path], shell: Path, **options: Any) -> Any:
        tensors = real(recipe, models, shell, **options)
        if "1-2" in shell.name:
            tensors["model.norm.weight"][0] = float("nan")
        return tensors

    monkeypatch.setattr(merging, "merge_in_memory", sometimes_nan)
    outcome = evolve("stop.generations=2", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    found = state(tmp_path / "outputs")
    assert "1-2 has NaN or infinite weights, first in model.norm.weight" in (found.population["1-2"].failure or "")
    assert "1-2 failed and is left out" in outcome.out
    assert found.population.generation == 2
    assert not any("1-2" in model.parents for model in found.population)


@pytest.mark.parametrize(("room", "function"), [(merging, "merge_in_memory"), (evaluator, "run_tasks")])
def test_a_candidate_that_raises_is_recorded_left_out_and_retried_only_when_asked(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: object, function: str
) -> None:
    real, calls = getattr(room, function), []

    def third_fails(*arguments: object, **named: object) -> object:
        calls.append(None)
        if len(calls) == (2 if function == "merge_in_memory" else 6):
            raise RuntimeError("the dog ate it")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(room, function, third_fails)
        outcome = evolve("stop.generations=1", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    stage = "merge" if function == "merge_in_memory" else "evaluation"
    assert state(tmp_path / "outputs").population["1-2"].failure == f"{stage}: RuntimeError: the dog ate it"
    again = evolve("stop.generations=2", "resume=force", "retry_failed=true", *ALL_RULES_OFF)
    assert again.status == 0, again.err
    found = state(tmp_path / "outputs")
    assert found.population["1-2"].failure is None
    assert found.population["1-2"].average is not None
    assert found.retried == {"1-2"}


def test_a_run_stops_in_words_when_a_whole_generation_fails(evolve: Command, tmp_path: Path) -> None:
    command = ("merge=task_arithmetic", "merge.parameters.lambda=1e39", "stop.generations=3", *ALL_RULES_OFF)
    outcome = evolve(*command)
    assert outcome.status == 1
    assert outcome.err.startswith("error: no merge worked; the first, 1-1: 1-1 has NaN or infinite weights")
    assert outcome.err.count("\n") == 1
    assert evolve(*command).status == 1  # it has finished already, and nothing better came of it
    found = state(tmp_path / "outputs")
    assert found.stopped is not None
    assert "every candidate of generation 1 failed; the first: 1-1 has NaN or infinite weights" in found.stopped
    assert found.population.best(1)[0].founder


def test_founders_that_cannot_be_evaluated_end_the_run_in_words_and_can_be_retried(
    evolve: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "run_tasks", fail)
        outcome = evolve("stop.generations=1")
    assert outcome.status == 2
    assert "fewer than two founders could be evaluated; red: evaluation: RuntimeError: no room" in outcome.err
    assert evolve("stop.generations=1", "retry_failed=true").status == 0


def test_on_out_of_memory_the_batch_is_halved_until_it_fits(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    real, batches = model.ReusableModel._model_call, []

    def too_large(self: model.ReusableModel, inps: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        batches.append(len(inps))
        if len(inps) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, inps, *rest, **named)

    whole = evolve("name=whole", "stop.generations=1", "evaluate.batch_size=4")
    monkeypatch.setattr(model.ReusableModel, "_model_call", too_large)
    outcome = evolve("stop.generations=1", "evaluate.batch_size=16")
    assert whole.status == outcome.status == 0, outcome.err
    assert max(batches) == 16
    scores = [{m.name: m.scores for m in state(tmp_path / "outputs", n).population} for n in ("whole", "run")]
    assert scores[0] == scores[1]


# --- weights on disk -------------------------------------------------------------------------------------------------


def stored(run: Path) -> set[str]:
    return {folder.name for folder in (run / "models").iterdir()}


def test_what_is_kept(evolve: Command, tmp_path: Path) -> None:
    for keep in ("all", "survivors", "best"):
        outcome = evolve(f"name={keep}", f"keep={keep}", "stop.generations=4", *ALL_RULES_OFF)
        assert outcome.status == 0, outcome.err
    runs = tmp_path / "outputs"
    made = {model.name for model in state(runs, "all").population if model.recipe is not None}
    assert stored(runs / "all") == made
    assert stored(runs / "best") == stored(runs / "survivors") == set()
    whole, lean = state(runs, "all"), state(runs, "survivors")
    assert [(m.name, m.parents, m.scores) for m in whole.population] == [
        (m.name, m.parents, m.scores) for m in lean.population
    ]
    assert (runs / "best/best/model.safetensors").read_bytes() == (runs / "all/best/model.safetensors").read_bytes()


def test_a_deleted_model_is_rebuilt_to_the_same_bytes_with_its_ancestors(evolve: Command, tmp_path: Path) -> None:
    evolve("keep=all", "stop.generations=3", "merge=dare_ties", *ALL_RULES_OFF)
    run = tmp_path / "outputs/run"
    youngest = [model for model in state(tmp_path / "outputs").population if model.generation == 3][-1]
    file = run / "models" / youngest.name / "model.safetensors"
    before = file.read_bytes()
    shutil.rmtree(run / "models")
    assert rebuild.main([str(run), youngest.name]) == 0
    assert file.read_bytes() == before


def test_a_run_goes_on_though_its_weights_were_deleted(evolve: Command, tmp_path: Path) -> None:
    command = ("keep=all", "stop.generations=3", *ALL_RULES_OFF)
    evolve(*command)
    whole = events(tmp_path / "outputs")
    journal = tmp_path / "outputs/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    cut = next(n for n, event in enumerate(whole) if event["event"] == "closed" and event["generation"] == 2)
    journal.write_bytes(b"".join(lines[: cut + 1]))
    shutil.rmtree(tmp_path / "outputs/run/models")
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert events(tmp_path / "outputs") == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "1-1"], "nowhere is no run"),
        (["RUN", "9-9"], "'9-9' is no offspring of the run run; merged were 1-1"),
    ],
)
def test_what_cannot_be_rebuilt(
    evolve: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    evolve("stop.generations=1")
    assert rebuild.main([a.replace("RUN", str(tmp_path / "outputs/run")) for a in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_generation_that_does_not_fit_the_disk_is_not_begun(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
        outcome = evolve("stop.generations=1")
    assert outcome.status == 2
    assert re.search(r"\d\.\d KiB are needed for the next 3 models and 100 bytes are free", outcome.err)
    assert "the same command goes on from here" in outcome.err
    assert evolve("stop.generations=1").status == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk takes root")
def test_a_full_disk_stops_cleanly_and_resumes(evolve: Command, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        ballast = small / "ballast"
        evolve(f"outputs={small}", "stop.evaluations=4")
        ballast.write_bytes(b"0" * (shutil.disk_usage(small).free - 30_000))
        outcome = evolve(f"outputs={small}", "stop.generations=1", "stop.evaluations=null", "resume=force")
        assert outcome.status == 1, outcome.out
        assert f"{small}/run" in outcome.err
        assert ": No space left on device; free some space" in outcome.err
        assert "the same command goes on from here" in outcome.err
        assert not any(model.failure for model in state(small).population)
        ballast.unlink()
        outcome = evolve(f"outputs={small}", "stop.generations=1", "stop.evaluations=null", "resume=force")
        assert outcome.status == 0, outcome.err
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


# --- stopped and taken up --------------------------------------------------------------------------------------------


def test_resume_force_goes_on_with_harmless_changes_only(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=1", *ALL_RULES_OFF)
    refused = evolve("stop.generations=2", *ALL_RULES_OFF)
    assert refused.status == 2
    assert "stop.generations was 1, is 2" in refused.err
    assert "resume=force goes on with the change" in refused.err
    assert evolve("stop.generations=2", "strategy.k=2", "resume=force", *ALL_RULES_OFF).status == 2
    assert evolve("stop.generations=2", "resume=force", *ALL_RULES_OFF).status == 0
    assert state(tmp_path / "outputs").closed == 2


def test_a_second_run_on_the_same_folder_is_refused(evolve: Command, tmp_path: Path) -> None:
    from src.journal import Journal

    evolve("stop.generations=1")
    held = Journal(tmp_path / "outputs/run/journal.jsonl")
    outcome = evolve("stop.generations=1")
    held.close()
    assert outcome.status == 2
    assert "is in use by another run" in outcome.err


def test_a_founder_that_changed_since_is_refused(evolve: Command, family: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    evolve("stop.generations=1", at=copy)
    config = json.loads((copy / "blue/config.json").read_text())
    (copy / "blue/config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    outcome = evolve("stop.generations=1", at=copy)
    assert outcome.status == 2
    assert "the weights or configuration of blue" in outcome.err


def test_a_founder_whose_tokenizer_changed_since_is_refused(evolve: Command, family: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    evolve("stop.generations=1", at=copy)
    file = copy / "blue/tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    outcome = evolve("stop.generations=1", at=copy)
    assert outcome.status == 2
    assert "the tokenizer or templates of blue" in outcome.err
    assert rebuild.main([str(tmp_path / "outputs/run"), "1-1"]) == 2


def started(family: Path, outputs: Path) -> "subprocess.Popen[str]":
    """An endless run in a process of its own, in the middle of a generation."""
    models = ",".join(f"{name}:{family / name}" for name in ("red", "green", "blue"))
    command = [
        *(
            sys.executable,
            "-m",
            "src.run",
            "strategy=kinship_topk",
            "founders=local",
            f"founders.base={family / 'base'}",
        ),
        *(f"founders.models={{{models}}}", "evaluate.tasks=[pico_words]", f"evaluate.include={family / 'tasks'}"),
        *(f"outputs={outputs}", "name=run", "track=none", "stop.generations=null", *ALL_RULES_OFF),
    ]
    root = Path(__file__).parent.parent
    running = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = outputs / "run/journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and b'"selected"' in journal.read_bytes()):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return running


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_within_two_seconds_and_says_how_to_go_on(
    family: Path, tmp_path: Path, signum: int, status: int
) -> None:
    running = started(family, tmp_path)
    running.send_signal(signum)
    began = time.monotonic()
    _, err = running.communicate(timeout=30)
    assert time.monotonic() - began < 3  # two seconds are promised; a busy machine may take one more to reap it
    assert running.returncode == status
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err
    parse(tmp_path / "run/journal.jsonl")


def test_a_second_ctrl_c_leaves_at_once() -> None:
    """While a long computation outside Python, a merge or a forward pass, keeps the first from being raised."""
    stubborn = """
import hashlib
from src.runtime.signals import interruptible
with interruptible("advice"):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""
    root = Path(__file__).parent.parent
    running = subprocess.Popen(
        [sys.executable, "-c", stubborn], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - began < signals.PATIENCE - 0.3  # sooner than by patience alone
    assert err.splitlines() == [b"", b"advice"]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write to: for root, whom permissions do not stop, a file system of its own."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("root here, and may not mount")
    else:
        yield folder
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder_is_refused_before_any_work(evolve: Command, read_only: Path) -> None:
    outcome = evolve(f"outputs={read_only}")
    assert outcome.status == 2
    assert f"{read_only}/run: the run's folder cannot be written" in outcome.err
    assert len(outcome.err.splitlines()) <= 2
    assert "evaluat" not in outcome.out


def test_a_run_folder_that_has_become_read_only_is_refused_and_unharmed(evolve: Command, tmp_path: Path) -> None:
    assert evolve("stop.generations=1").status == 0
    run = tmp_path / "outputs/run"
    before = (run / "journal.jsonl").read_bytes()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a folder onto itself, read-only")
    if subprocess.run(["mount", "--bind", run, run], capture_output=True).returncode:
        pytest.skip("root here, and may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
        outcome = evolve("stop.generations=2", "resume=force")
        assert outcome.status == 2
        assert "cannot be written (Read-only file system)" in outcome.err
        assert (run / "journal.jsonl").read_bytes() == before
    finally:
        subprocess.run(["umount", run], check=True)
    assert evolve("stop.generations=2", "resume=force").status == 0
