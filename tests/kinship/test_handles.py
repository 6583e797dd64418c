"""Checkpoints of more shards than a process may have files open."""

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from src.kinship.handles import Handles
from tests.checkpoints import random_weights, write_checkpoint

SHARDS, ALLOWED = 60, 48


def sharded(folder: Path, names: list[str]) -> tuple[list[Path], dict[str, np.ndarray]]:
    """Folders, the base's first, and all of the deltas of each model."""
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (5, 7) for i in range(SHARDS)}
    base = random_weights(shapes, 0)
    folders = [write_checkpoint(folder / "base", base, dtype="F64", shards=SHARDS)]
    deltas = {}
    for seed, name in enumerate(names, start=1):
        weights = random_weights(shapes, seed, near=base, scale=0.1)
        folders.append(write_checkpoint(folder / name, weights, dtype="F64", shards=SHARDS))
        deltas[name] = np.concatenate([(weights[key] - base[key]).ravel() for key in shapes])
    return folders, deltas


def related(folders: list[Path], allowed: int) -> "subprocess.CompletedProcess[str]":
    """`python -m src.kinship` that may have so many files open."""
    base, *models = map(str, folders)
    command = [sys.executable, "-m", "src.kinship", *models, "--base", base, "--json"]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed)),
    )


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    folders, deltas = sharded(tmp_path, ["a", "b", "c"])
    ended = related(folders, ALLOWED)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(json.loads(ended.stdout)["matrix"], np.corrcoef(list(deltas.values())), atol=1e-12)


def test_threads_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever borrows may have more than is allowed, but then nobody else has any."""
    monkeypatch.setattr("src.kinship.handles._MOST", 4)
    files = [tmp_path / f"{i}" for i in range(9)]
    for file in files:
        file.write_text(file.name)
    handles, most = Handles(), 0

    def borrow(turn: int) -> None:
        nonlocal most
        wanted = [files[(turn + i) % 9] for i in range(1 + turn % 6)]
        with handles.borrow(wanted) as lent:
            most = max(most, len(handles._open))
            for file, handle in zip(wanted, lent, strict=True):
                assert Path(f"/dev/fd/{handle}").resolve() == file.resolve()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(borrow, range(500)))
    assert most == 6
    handles.close()
