"""What every command has in common: one line for a mistake, and no complaint when its reader leaves early."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("analyse", "compare", "holdout", "kinship", "rebuild", "report", "zoo")


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_costs_a_line(command: str) -> None:
    outcome = python(f"src.{command}", "--no-such-option")
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.startswith("error: ")
    assert f"python -m src.{command} --help" in outcome.stderr


@pytest.mark.parametrize("command", ["analyse", "compare", "holdout", "report"])
def test_what_is_not_there_costs_a_line(command: str, tmp_path: Path) -> None:
    outcome = python(f"src.{command}", str(tmp_path / "nowhere"))
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: ")
    assert "nowhere" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("command", "module"),
    [("run", "hydra"), ("run", "pydantic"), ("compare", "scipy"), ("report", "src.runtime.command"), ("zoo", "torch")],
)
def test_ctrl_c_while_libraries_are_imported_costs_a_line(command: str, module: str, tmp_path: Path) -> None:
    """Interrupted at the import of a module, as Python tells of it: before the command has done anything of its own."""
    starting = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", f"src.{command}", "nowhere"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert starting.stderr is not None
    said = []
    for line in starting.stderr:
        said.append(line)
        if line.rpartition("|")[2].strip().startswith(module):
            starting.send_signal(signal.SIGINT)
            break
    said += starting.communicate(timeout=60)[1].splitlines(keepends=True)
    assert starting.returncode == 130
    begun = ["kinmerge: reading the configuration, the founders and the tasks …\n"] if command == "run" else []
    assert [line for line in said if not line.startswith("import time:")] == [*begun, "interrupted\n"]


def test_a_reader_that_leaves_early_is_no_mistake(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{generation},{50 + generation / 7},{generation % 3 / 10},{generation / 200}" for generation in range(200)]
    table.write_text("\n".join(["generation,average,gain,pcc", *rows]))
    command = f"{sys.executable} -m src.analyse {table} --json | true; echo ${{PIPESTATUS[0]}}"
    outcome = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert outcome.stderr == ""
    assert outcome.stdout == "0\n"
