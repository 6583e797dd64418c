"""Every test runs without a network, without accounts, and in a folder of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the front door has it
os.environ.pop("WANDB_API_KEY", None)

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings

from tests.family import FOUNDERS, TASKS, write_family

# A slow example is not a failing one on a shared machine. The same examples every time: whether main is green must not
# be a matter of luck; `make fuzz` looks for new ones.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
# One thread: bit for bit the same on every machine that runs the tests, and no waiting for a busy core.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico family; nobody may change it."""
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def evolve(tmp_path: Path, family: Path) -> Command:
    """`python -m src.run` on the pico family within this process: evolve("stop.generations=2", …)."""

    def command(*overrides: str, founders: tuple[str, ...] = FOUNDERS, at: Path = family) -> Outcome:
        return run(*on_pico_family(at, tmp_path / "outputs", founders), *overrides)

    return command


def on_pico_family(at: Path, outputs: Path, founders: tuple[str, ...] = FOUNDERS) -> list[str]:
    """The settings of a run called `run` on the pico family that lies `at` a folder."""
    models = ",".join(f"{name}:{at / name}" for name in founders)
    return [
        "strategy=kinship_topk",
        "founders=local",
        f"founders.base={at / 'base'}",
        f"founders.models={{{models}}}",
        f"evaluate.tasks=[{','.join(TASKS)}]",
        f"evaluate.include={at / 'tasks'}",
        "evaluate.holdout=null",
        f"outputs={outputs}",
        "name=run",
        "track=none",
        "cache=off",
        "workers.threads=1",
    ]


def run(*overrides: str) -> Outcome:
    """`python -m src.run` within this process."""
    from src.run import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["src.run", *overrides]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
    return Outcome(status, out.getvalue(), err.getvalue())
