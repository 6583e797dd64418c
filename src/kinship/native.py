"""The compiled kernel: gram.c, built once by the machine's own C compiler and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.checkpoint import COMPARABLE
from src.header import ITEM_BYTES, TensorSpec

_SOURCES = [Path(__file__).with_name(name) for name in ("gram.c", "gram_of.h")]
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
# What a thread reads at a time, of all models and of each at least: enough to make a call of the kernel's worth while,
# and little enough to be in the cache still when it is multiplied.
_BUFFER_BYTES, _LEAST_BYTES = 2 << 20, 256 << 10
_ROOM = 64  # bytes a row, as in gram.c
_PAGE = 512  # elements; a block is a multiple of it, so that it begins as aligned as the tensor does


class NativeKernel:
    """Reads stretches of tensors and multiplies them, in one call that holds no Python lock.

    One instance serves one thread. `rows` counts the base; pairs of rows below `first` may be left out. With `fine`,
    all of the arithmetic is float64, else only where `is_coarse` does not say otherwise.
    """

    def __init__(self, rows: int, first: int, fine: bool) -> None:
        library = build()
        assert library is not None
        self._call = library.kinship_stretch
        self._rows, self._first, self._fine = rows, first, fine
        self._bytes = max(_BUFFER_BYTES, rows * _LEAST_BYTES)
        self._raw = _aligned((self._bytes + rows * _ROOM) // 8)
        self._raws = np.zeros(rows, dtype=np.uintp)
        self._scratch = _aligned(library.kinship_scratch(rows) // 8)

    def __call__(
        self, specs: Sequence[TensorSpec], files: Sequence[int], start: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """gram [rows, rows] and sums [rows] of `count` elements from `start` on; EOFError(row) if a file ends early."""
        sizes = [ITEM_BYTES[spec.dtype] for spec in specs]
        block = self._bytes // sum(sizes) // _PAGE * _PAGE
        handles = np.array(files, dtype=np.intc)
        offsets = np.array([s.offset + start * size for s, size in zip(specs, sizes, strict=True)], dtype=np.int64)
        dtypes = np.array([COMPARABLE.index(spec.dtype) for spec in specs], dtype=np.intc)
        gram, sums = np.zeros((self._rows, self._rows)), np.zeros(self._rows)
        arrays = (a.ctypes.data for a in (self._raw, self._raws, self._scratch, gram, sums))
        failed = self._call(
            *(self._rows, self._first, not self._fine and is_coarse(specs, count)),
            *(handles.ctypes.data, offsets.ctypes.data, dtypes.ctypes.data, count, block, *arrays),
        )
        if failed:
            raise EOFError(failed - 1)
        return gram, sums


def is_coarse(specs: Sequence[TensorSpec], count: int) -> bool:
    """Whether a stretch is summed in float, slice by slice: 16-bit weights, so many that rounding averages out."""
    return count >= 1 << 16 and all(ITEM_BYTES[spec.dtype] == 2 for spec in specs)


def _aligned(doubles: int) -> np.ndarray:
    """An uninitialised float64 array that begins on a cache line."""
    room = np.empty(doubles + 8)
    skip = -room.ctypes.data // 8 % 8
    return room[skip : skip + doubles]


@functools.cache
def build() -> ctypes.CDLL | None:
    """The compiled library, from the cache or built now (a second or two); None on a machine without a C compiler."""
    source = b"".join(path.read_bytes() for path in _SOURCES)
    key = hashlib.sha256(source + " ".join(_FLAGS).encode() + _processor().encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinmerge"
    library = cache / f"gram-{key}.so"
    try:
        if not library.exists():
            _compile(library)
        loaded = ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None
    loaded.kinship_scratch.argtypes, loaded.kinship_scratch.restype = [ctypes.c_int], ctypes.c_int64
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    loaded.kinship_stretch.argtypes = [
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, long, long),
        *(pointer, pointer, pointer, pointer, pointer),
    ]
    return loaded


def _compile(library: Path) -> None:
    """Build beside the place and rename, so that two processes at once do no harm."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise FileNotFoundError("no C compiler")
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=library.parent, suffix=".so")
    os.close(handle)
    try:
        command = [*compiler.split(), *_FLAGS, "-o", beside, str(_SOURCES[0])]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        Path(beside).replace(library)
    finally:
        Path(beside).unlink(missing_ok=True)


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
