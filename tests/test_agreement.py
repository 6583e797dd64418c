"""Processes that were not started alike say so in a line, before anything is merged or scored."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src import start
from tests import processes
from tests.conftest import run
from tests.family import TASKS
from tests.test_processes import command


def together(tmp_path: Path, commands: Callable[[int], list[str]]) -> tuple[list[int], str]:
    """How two processes end, each with a command of its own, and what the first of them said."""

    def work(rank: int) -> int:
        outcome = run(*commands(rank))
        print(outcome.out, outcome.err)
        return outcome.status

    status = processes.wait(processes.start(2, work, tmp_path / "out"), 120)
    return status, (tmp_path / "out.0").read_text()


def check_refused(tmp_path: Path, ended: tuple[list[int], str], words: str) -> None:
    status, said = ended
    assert status == [2, 2], said
    assert f"error: processes 0 and 1 do not do the same: {words}" in said
    assert said.count("\n") == 2, "one line, and the end of it"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("seed=1", "seed is 0 in one and 1 in the other"),
        (f"evaluate.tasks=[{TASKS[0]}]", "evaluate.tasks is [{'name': 'pico_vowels'"),
        ("retry_failed=true", "retry_failed is False in one and True in the other"),
        ("name=elsewhere", "name is run in one and elsewhere in the other"),
    ],
)
def test_processes_with_other_settings(family: Path, tmp_path: Path, other: str, words: str) -> None:
    own = command(family, tmp_path, "run")
    check_refused(tmp_path, together(tmp_path, lambda rank: [*own, other] if rank else own), words)


def test_processes_with_other_versions(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, real = command(family, tmp_path, "run"), start.version

    def started(rank: int) -> list[str]:
        monkeypatch.setattr(start, "version", lambda one: "0.0" if rank and one == "torch" else real(one))
        return own

    check_refused(tmp_path, together(tmp_path, started), f"torch is {real('torch')} in one and 0.0 in the other")


def test_processes_that_ask_other_questions(family: Path, tmp_path: Path) -> None:
    """The same command in two folders, whose files of the same name differ in the order of their questions."""
    for rank in range(2):
        tasks = Path(shutil.copytree(family / "tasks", tmp_path / f"at-{rank}" / "tasks"))
        for file in tasks.glob("*.yaml"):
            file.write_text(file.read_text().replace(str(family / "tasks"), str(tasks)))
    questions = tmp_path / "at-1/tasks" / f"{TASKS[1]}.jsonl"
    questions.write_text("".join(questions.read_text().splitlines(keepends=True)[::-1]))
    own = command(family, tmp_path, "run", "evaluate.include=tasks")

    def started(rank: int) -> list[str]:
        os.chdir(tmp_path / f"at-{rank}")
        return own

    check_refused(tmp_path, together(tmp_path, started), "what evaluate.tasks asks is")


def test_processes_that_agree_go_on_to_the_end(family: Path, tmp_path: Path) -> None:
    own = command(family, tmp_path, "run")
    assert together(tmp_path, lambda rank: own)[0] == [0, 0]
    status, said = together(tmp_path, lambda rank: own)
    assert status == [0, 0]
    assert "has finished already" in said
