"""What every command has in common: one line for a mistake, and no complaint when its reader leaves early."""

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
