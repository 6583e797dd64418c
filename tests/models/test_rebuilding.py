"""A winner by a merge method of our own is made again from what lies beside it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.journal import parse, replay
from tests.conftest import Command
from tests.family import FOUNDERS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("merge", ["wudi", pytest.param("actmat", marks=pytest.mark.slow)])
def test_the_card_s_command_makes_the_winner_again_in_a_fresh_folder(
    evolve: Command, tmp_path: Path, merge: str
) -> None:
    outcome = evolve(f"merge={merge}", "strategy=one_shot", founders=FOUNDERS[:3])
    assert outcome.status == 0, outcome.err
    best = tmp_path / "outputs/run/best"
    winner = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0]).population.best(1)[0]
    assert not winner.founder
    (command,) = re.findall(r"^    (PYTHONPATH=KINMERGE python -m .*)$", (best / "README.md").read_text(), re.MULTILINE)
    _, _, *arguments = shlex.split(command)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(best / "recipe.yaml", fresh)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=fresh, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (fresh / winner.name / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()
