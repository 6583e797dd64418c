"""Where a section runs: the device, the sizes of what it makes, folders with room, and what it reports."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kinship import Shapes
from benchmarks.merging import llama, llama2, smollm2

ROOT = Path(__file__).parents[2]
GIB = 2**30
RAM = Path("/dev/shm")
SPARE = 40 * 10**9
"""Bytes of memory that are left to the programs where files are kept in memory."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    found: str
    beside: str = ""
    """What it is to be compared with."""
    held: bool | None = None
    """Whether what was to be shown was shown; None where nothing was promised."""


@dataclass(frozen=True)
class Large:
    """The shape of the largest family, by its number of layers."""

    name: str
    layers: int
    shapes: Callable[[int], Shapes]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    small: Shapes
    """Of many short runs."""
    one: Shapes
    """About 1 B parameters."""
    layers: Shapes
    """Two layers of `one`, which processors merge in seconds."""
    half: Shapes
    """A layer of half the width, whose singular value decompositions processors make in seconds."""
    large: Large
    samples: int
    words: int
    """Of a question."""
    batch: int
    """Rows that are too many for the memory."""
    side: int
    """Of the matrix that is decomposed."""
    real: bool = True

    def name(self, size: str) -> str:
        """Return what a model of a size is called in the table."""
        return size if self.real else "tiny"


def _wide(hidden: int, mlp: int, heads: int, layers: int, groups: int = 8) -> Shapes:
    return llama(hidden=hidden, mlp=mlp, heads=heads, groups=groups, layers=layers, vocabulary=128256, tied=True)


def full() -> Sizes:
    """Return sizes that keep a GPU busy: shapes of SmolLM2-135M, Llama 3.2 1B and Llama 2 7B."""
    return Sizes(
        small=smollm2(30),
        one=_wide(2048, 8192, 32, 16),
        layers=_wide(2048, 8192, 32, 2),
        half=_wide(1024, 4096, 16, 1),
        large=Large("7 B", 32, llama2),
        samples=4000,
        words=100,
        batch=4096,
        side=2048,
    )


def tiny() -> Sizes:
    """Return sizes that only try the logic."""
    shapes = llama(hidden=64, mlp=96, heads=4, groups=2, layers=2, vocabulary=1100, tied=True)
    large = Large("tiny", 3, _narrow)
    return Sizes(shapes, shapes, shapes, shapes, large, samples=60, words=12, batch=64, side=64, real=False)


def _narrow(layers: int) -> Shapes:
    return llama(hidden=64, mlp=96, heads=4, groups=4, layers=layers, vocabulary=1100, tied=False)


@dataclass(frozen=True)
class Place:
    """What a section works with."""

    device: str
    """cuda:0, or cpu for a dry run."""
    gpus: int
    sizes: Sizes
    folder: Path
    """The sections', for what they hand on; removed at the end."""
    elsewhere: Path
    """On a disk, for what has no room in `folder`, which may lie in memory."""
    end: float = math.inf
    """When its section is ended, by time.monotonic()."""

    @property
    def gpu(self) -> bool:
        """Whether this is no dry run."""
        return self.device != "cpu"

    def room(self, nbytes: int) -> Path | None:
        """Return a folder that takes so many bytes, memory before disk; None where nothing does."""
        for folder in (self.folder, self.elsewhere):
            in_memory = RAM in folder.parents
            if 1.05 * nbytes < shutil.disk_usage(folder).free and (not in_memory or nbytes + SPARE < available()):
                return folder
        return None


def available() -> int:
    """Return the bytes of memory that programs could have."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024 * int(line.split()[1])


def bytes_of(shapes: Shapes) -> int:
    """Return the size of a checkpoint in bf16."""
    total = 0
    for _, shape in shapes.tensors:
        values = 1
        for side in shape:
            values *= side
        total += 2 * values
    return total


def environment() -> dict[str, str]:
    """Return the environment of a run: nothing is asked of the hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
