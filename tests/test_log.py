"""run.log: what the terminal showed, start after start, as plain text."""

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from src.models import founders
from src.runtime import log, progress, terminal
from src.runtime.log import NAME
from tests.conftest import Command

DATE = r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
SHORT = ("stop.generations=1", "strategy.k=2")


class Terminal(io.StringIO):
    """Where colours and bars are shown."""

    def isatty(self) -> bool:
        return True


def starts(folder: Path) -> list[list[str]]:
    """The lines of every start."""
    whole = re.split(f"^{DATE}\n", (folder / NAME).read_text(), flags=re.MULTILINE)
    assert whole[0] == ""
    return [start.splitlines() for start in whole[1:]]


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_the_log_has_every_start_as_the_terminal_had_it(evolve: Command, tmp_path: Path) -> None:
    outcomes = [evolve(*SHORT), evolve(*SHORT)]
    (first, again) = starts(tmp_path / "outputs/run")
    assert outcomes[0].status == 0
    assert first == stripped(outcomes[0].out)
    assert any(line.startswith("1-1: ") for line in first)
    assert again == stripped(outcomes[1].out)
    assert again[0] == "the run run has finished already; a new one needs another name=…"


def test_warnings_are_in_it_and_what_is_said_before_there_is_a_folder(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring = founders.bring
    monkeypatch.setattr(founders, "bring", lambda settings: terminal.warn("early") or bring(settings))
    outcome = evolve(*SHORT)
    (lines,) = starts(tmp_path / "outputs/run")
    assert lines[0] == "warning: early"
    assert sorted(lines) == sorted(stripped(outcome.out) + stripped(outcome.err))


def test_a_start_that_fails_says_why_in_the_log(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.evolution import Evolution

    for error, words in ((MemoryError("all of it"), "error: "), (KeyError("a bug"), "KeyError: 'a bug'")):

        def fail(self: Evolution, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Evolution, "propose", fail)
            with contextlib.suppress(KeyError):  # which a shell shows
                assert evolve(*SHORT).status == 1
        assert any(line.startswith(words) for line in starts(tmp_path / "outputs/run")[-1])
    assert evolve(*SHORT).status == 0
    assert len(starts(tmp_path / "outputs/run")) == 3


def test_a_start_that_is_none_leaves_the_log_alone(evolve: Command, tmp_path: Path) -> None:
    assert evolve(*SHORT).status == 0
    before = (tmp_path / "outputs/run" / NAME).read_bytes()
    assert evolve(*SHORT, "seed=5").status == 2  # the run has other settings
    assert evolve(*SHORT, "dry_run=true").status == 0
    assert (tmp_path / "outputs/run" / NAME).read_bytes() == before


def test_a_terminal_s_colours_and_bars_stay_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("TERM", "xterm-256color")
    with log.copying():
        print("before")
        log.keep_in(tmp_path)
        with progress.bar("founders", total=3, unit="model") as bar:
            for _ in range(3):
                bar.update()
                terminal.warn("amid a bar")
        progress.note("red: 1.00 in 1.0 s")
        terminal.console().print("bold", style="bold red")
        print("no end", end="")
        print(" of line")
    assert "founders" in err.getvalue()
    assert "\x1b[" in out.getvalue()
    assert "red: " not in out.getvalue()
    lines = (tmp_path / NAME).read_text().splitlines()
    assert re.fullmatch(DATE, lines[0])
    warnings = ["warning: amid a bar"] * 3
    assert lines[1:] == ["before", *warnings, "red: 1.00 in 1.0 s", "bold", "no end of line"]


def test_no_key_reaches_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    with log.copying():
        print("a library prints hf_abcdefgh")
        log.keep_in(tmp_path)
    assert (tmp_path / NAME).read_text().endswith("a library prints (HF_TOKEN)\n")


def test_a_log_that_cannot_be_written_ends_no_run(evolve: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs/run" / NAME).mkdir(parents=True)
    outcome = evolve(*SHORT)
    assert outcome.status == 0, outcome.err
