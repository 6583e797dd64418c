"""Programs as a user starts them, each in a process of its own: its time and the most memory it took."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.runtime.errors import MachineError

ROOT = Path(__file__).parent.parent.parent
LOOK = 0.02
"""Seconds between two looks at a program's memory."""


@dataclass(frozen=True)
class Cost:
    """What a program took."""

    seconds: float
    """Of wall time, imports included."""
    memory: int
    """Most bytes resident in the process, pages of mapped files included."""
    gpu: int | None
    """Most bytes allocated on the GPU, of whatever kind, above what was before; None where there is none to ask."""
    own: int | None = None
    """Most bytes of the process's own, without pages of files; None where the system does not tell."""


def run(command: Sequence[str], log: Path, device: str = "cpu") -> Cost:
    """Run a program in the project's folder without a network; its output goes into the file `log`.

    Raises:
        MachineError: it failed; with its last line.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": _python_path()}
    log.parent.mkdir(parents=True, exist_ok=True)
    before = gpu_memory(device)
    most, own, most_gpu = 0, 0, before
    began = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            for _ in _until_it_ends(process):
                known = _resident(process.pid)
                most, own = max(most, known.get("VmHWM", 0)), max(own, known.get("RssAnon", 0))
                most_gpu = max(most_gpu or 0, now) if (now := gpu_memory(device)) is not None else None
        except BaseException:
            process.terminate()
            process.wait()
            raise
    seconds = time.perf_counter() - began
    if process.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise MachineError(f"{' '.join(command[:4])} … ended with status {process.returncode}: {last} (see {log})")
    gpu = None if before is None or most_gpu is None else most_gpu - before
    return Cost(seconds, most, gpu, own or None)


def _until_it_ends(process: subprocess.Popen[bytes]) -> Iterator[None]:
    while process.poll() is None:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)


def _python_path() -> str:
    """Return the project's folder and what the user's PYTHONPATH has."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def script(module: str, function: str, *arguments: str) -> list[str]:
    """Return the command that a console script stands for, found wherever its package is."""
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-c", code, *arguments]


def _resident(process: int) -> dict[str, int]:
    """Return what the system tells of a process's memory, in bytes: VmHWM is the most so far; {} once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    lines = (line.split() for line in status.splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def gpu_memory(device: str) -> int | None:
    """Return the bytes in use on a GPU, by whatever program; None where there is none, or no library to ask."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        return int(torch.cuda.device_memory_used(torch.device(device)))
    except (AssertionError, AttributeError, ImportError, RuntimeError):  # without nvidia-ml-py, or in an older torch
        return None
