"""`make gpu` where there is no GPU: its sections run with tiny shapes, and what they promise is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import page
from benchmarks.gpu.place import Row

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param(["kinship", "moves"], id="short"),
        pytest.param(["killed", "one", "large"], id="runs", marks=pytest.mark.slow),
        pytest.param(["merging", "evaluation", "learning", "shared"], id="rest", marks=pytest.mark.slow),
    ],
)
def test_the_dry_run_sees_all_that_is_promised(sections: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", *sections, "--out", str(tmp_path)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = (tmp_path / "gpu.md").read_text()
    assert "Not run: no GPU" in told
    assert "**NO**" not in told
    assert told.count("\n## ") == len(sections) + bool({"kinship", "one", "evaluation", "learning"} & {*sections})


def test_what_was_not_seen_is_marked() -> None:
    assert page.line(Row("their journal", "DIFFERENT", held=False)).endswith("| **NO** |")
