"""A winner by any merge method that is not mergekit's alone is made again from what lies beside it."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from src import rebuild
from src.config import Evaluate
from src.evaluation.base import BaseEvaluator, Evaluation
from src.journal import parse, replay
from src.models.methods import METHODS
from tests.conftest import Command
from tests.family import FOUNDERS, write_family
from tests.models.test_every_merge import seen_by

ROOT = Path(__file__).parent.parent.parent
TREATED = ("merge.treatment.lines.alpha=0.6", "merge.treatment.lines.beta=0.8", "merge.treatment.svc=1")
MERGES: dict[str, tuple[str, ...]] = {
    **{method.spec.name: () for method in METHODS},
    "ties": TREATED,
    "linear": TREATED,
    "dare_ties": ("merge.treatment.scale=1.5",),
}


class NewIsBetter(BaseEvaluator):
    """Finds offspring better than founders, so that it is an offspring that wins."""

    def __init__(
        self, settings: Evaluate, *, seed: int, devices: Sequence[str] = ("cpu",), remote_code: bool = False
    ) -> None:
        pass

    @property
    def identity(self) -> str:
        return "new is better"

    def evaluate(self, folder: Path, tensors: Any = None, progress: Any = None, share: Any = None) -> Evaluation:
        score = 100.0 * ("outputs" in folder.parts)
        return Evaluation({"new": score}, score, 0.0, {"new": {0: score / 100}}, {"new": 1.0})


def by_another_process(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Python with these arguments, as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def in_this_process(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the module as Python would; half a minute of imports less."""
    _, module, *options = arguments
    monkeypatch.setattr(sys, "argv", [module, *options])
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda threads: None)  # it may be called once a process
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert not end.value.code


Again = Callable[[list[str], pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("merge", "dtype", "again"),
    [("wudi", "F32", by_another_process), *((merge, "BF16", in_this_process) for merge in MERGES)],
)
def test_the_card_s_command_makes_the_winner_again_in_a_fresh_folder(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: str, dtype: str, again: Again
) -> None:
    at = write_family(tmp_path / "family", FOUNDERS[:3], dtype)
    given = [f"merge={merge}", *MERGES[merge]]
    if merge == "regmean":
        folder = seen_by({name: at / name for name in FOUNDERS[:3]}, tmp_path / "inputs")
        given.append(f"merge.parameters.inputs={folder}")
    evaluator = (f"evaluate.evaluator={__name__}.NewIsBetter", "evaluate.tasks=[new]", "evaluate.include=null")
    outcome = evolve("strategy=one_shot", *given, *evaluator, founders=FOUNDERS[:3], at=at)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "outputs/run"
    winner = replay(parse(run / "journal.jsonl")[0]).population.best(1)[0]
    assert not winner.founder
    made = (run / "best/model.safetensors").read_bytes()
    (tmp_path / "fresh").mkdir()
    shutil.copy(run / "best/recipe.yaml", tmp_path / "fresh")
    monkeypatch.chdir(tmp_path / "fresh")
    card = (run / "best/README.md").read_text()
    (command,) = re.findall(r"^    PYTHONPATH=KINMERGE python (-m .*)$", card, re.MULTILINE)
    again(shlex.split(command), monkeypatch)
    assert (tmp_path / "fresh" / winner.name / "model.safetensors").read_bytes() == made
    assert not (run / "models" / winner.name).exists()
    assert rebuild.main([str(run), winner.name]) == 0
    assert (run / "models" / winner.name / "model.safetensors").read_bytes() == made
