"""What fails for the machine's sake: it is tried again, ends the run in one line, and nobody else pays for it."""

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from src.evaluation import evaluator
from src.journal import parse
from src.models import merging
from src.runtime import command, errors
from src.runtime.errors import MachineError, SpoiledError, UserError, machine_fault, persistently
from tests import faults
from tests.conftest import Command
from tests.test_run import ALL_RULES_OFF, events


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before trying again."""
    monkeypatch.setattr(errors, "PAUSES", (0.0, 0.0))


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = faults.library(tmp_path_factory.mktemp("faults"))
    if found is None:
        pytest.skip("no cc here, or no way to preload a library")
    return found


# --- whose fault it is -----------------------------------------------------------------------------------------------


def because_of(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/data/x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "/data/x: No space left on device; free some space"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more open files (ulimit -n)"),
        (MemoryError("Unable to allocate 8 GiB"), "out of memory (Unable to allocate 8 GiB)"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "CUDA out of memory. Tried to"),
        (RuntimeError("CUDA error: unspecified launch failure"), "CUDA error: unspecified launch failure"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "(os error 28); free some space"),
        (SafetensorError("I/O error: something of Rust's (os error 5)"), "(os error 5)"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError("timed out"), "timed out"),
        (because_of(FULL, RuntimeError("could not save")), "/data/x: No space left on device"),
    ],
)
def test_the_machine_failed(error: Exception, words: str) -> None:
    found = machine_fault(error)
    assert found is not None
    assert words in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the dog ate it"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        SafetensorError("Error while deserializing header: invalid JSON"),
        because_of(FULL, UserError("the folder cannot be written")),
        because_of(FULL, SpoiledError("NaN")),
        KeyboardInterrupt(),
    ],
)
def test_somebody_else_failed(error: BaseException) -> None:
    assert machine_fault(error) is None


def test_what_the_machine_failed_is_tried_twice_again_and_nothing_else_is(at_once: None) -> None:
    calls: list[None] = []

    def work(failures: int, error: Exception) -> str:
        calls.append(None)
        if len(calls) <= failures:
            raise error
        return "done"

    assert persistently(lambda: work(2, FULL), "here") == "done"
    calls.clear()
    with pytest.raises(MachineError, match="here: /data/x: No space left on device"):
        persistently(lambda: work(3, FULL), "here")
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(ValueError, match="odd"):
        persistently(lambda: work(1, ValueError("odd")), "here")
    assert len(calls) == 1


def test_a_command_ends_in_a_line_and_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise FULL

    assert command.status(work) == 1
    assert capsys.readouterr().err == "error: /data/x: No space left on device; free some space\n"


# --- no candidate pays for it ----------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[], Exception]] = {
    "disk": lambda: OSError(errno.EIO, "Input/output error"),
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "network": lambda: ConnectionError("Couldn't reach the hub"),
    "rust": lambda: SafetensorError("I/O error: Read-only file system (os error 30)"),
}


@pytest.mark.parametrize(
    ("room", "function", "fault"),
    [
        (merging, "merge_in_memory", "disk"),
        (merging, "merge_in_memory", "rust"),
        (evaluator, "run_tasks", "memory"),
        (evaluator, "run_tasks", "network"),
    ],
)
def test_a_fault_that_passes_leaves_no_trace_and_one_that_lasts_ends_the_run(
    evolve: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: None,
    room: object,
    function: str,
    fault: str,
) -> None:
    real, calls = getattr(room, function), [0]
    first, passes = (2, 2) if room is merging else (6, 6)

    def failing(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if first <= calls[0] <= passes:
            raise FAULTS[fault]()
        return real(*arguments, **named)

    command = ("stop.generations=1", *ALL_RULES_OFF)
    whole = evolve(*command)
    expected = events(tmp_path / "outputs")
    (tmp_path / "outputs").rename(tmp_path / "whole")
    monkeypatch.setattr(room, function, failing)
    once = evolve(*command)
    assert whole.status == once.status == 0, once.err
    assert events(tmp_path / "outputs") == expected
    (tmp_path / "outputs").rename(tmp_path / "once")
    calls[0], passes = 0, 1000
    lasting = evolve(*command)
    assert lasting.status == 1
    assert lasting.err.count("\n") == 1
    assert lasting.err.startswith(f"error: 1-2, in {tmp_path}/outputs/run: ")
    assert lasting.err.endswith("; the same command goes on from here\n")
    assert not any(event["event"] == "failed" for event in events(tmp_path / "outputs"))
    passes = 0
    assert evolve(*command).status == 0
    assert events(tmp_path / "outputs") == expected


def test_a_journal_that_could_not_be_written_takes_the_next_event(tmp_path: Path, preloaded: Path) -> None:
    """A full disk takes half a line; once there is room again, the same process goes on behind the last whole one."""
    script = """
import os, sys
from pathlib import Path
from src.runtime import errors
from src.journal import Journal
errors.PAUSES = (0.0, 0.0)
journal = Journal(Path(sys.argv[1]))
journal.append("first")
os.environ |= {"FAULT_BELOW": os.path.dirname(sys.argv[1]), "FAULT_AT": sys.argv[2], "FAULT_LASTING": "1"}
try:
    journal.append("second")
except errors.MachineError as error:
    print(error)
os.environ["FAULT_BELOW"] = ""
journal.append("third")
"""
    for number in (1, 2, 3):  # the cut, the write, the sync
        path = tmp_path / f"{number}" / "journal.jsonl"
        ended = subprocess.run(
            [sys.executable, "-c", script, str(path), str(number)],
            **{"cwd": faults.ROOT, "capture_output": True, "text": True, "check": False},
            env={**os.environ, "LD_PRELOAD": str(preloaded), "FAULT_ERRNO": str(errno.ENOSPC)},
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{path}: No space left on device; free some space\n"
        assert [event["event"] for event in parse(path)[0]] == ["first", "third"]


# --- the siege -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, pytest.param(130, marks=pytest.mark.slow)])
def test_a_run_ends_the_same_whatever_fails_on_its_disk(tmp_path: Path, preloaded: Path, count: int) -> None:
    outcomes = faults.siege(preloaded, tmp_path, count)
    assert len(outcomes) == count
    for outcome in outcomes:
        assert outcome.starts[-1][0] == 0, outcome
        assert outcome.same, outcome
        for status, err in outcome.starts:
            assert status in {0, 1}, outcome
            assert "Traceback" not in err, outcome
            assert "Exception ignored" not in err, outcome
            assert [line[:7] for line in err.splitlines() if line.startswith("error: ")] == ["error: "] * status
    kinds = Counter(outcome.fault.kind for outcome in outcomes)
    assert kinds.keys() <= faults.ERRNOS.keys()
    assert len(kinds) > 4
    print(f"{dict(kinds)}; {dict(Counter(len(outcome.starts) - 1 for outcome in outcomes))} more starts")
