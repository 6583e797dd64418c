"""The compiled kernel: gram.c, built once by the machine's own C compiler and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from src.kinship.grams import Products
from src.models.checkpoint import COMPARABLE
from src.models.header import ITEM_BYTES, TensorSpec
from src.runtime.files import replacing

_SOURCES = [Path(__file__).with_name(name) for name in ("gram.c", "gram_of.h")]
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


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
        self._raw = _aligned(library.kinship_raw(rows))
        self._raws = np.zeros(rows, dtype=np.uintp)
        self._scratch = _aligned(library.kinship_scratch(rows))

    def __call__(self, specs: Sequence[TensorSpec], files: Sequence[int], start: int, count: int) -> Products:
        """Return gram [rows, rows] and sums [rows] of `count` elements from `start` on; EOFError(row) at its end."""
        sizes = [ITEM_BYTES[spec.dtype] for spec in specs]
        handles = np.array(files, dtype=np.intc)
        offsets = np.array([s.offset + start * size for s, size in zip(specs, sizes, strict=True)], dtype=np.int64)
        dtypes = np.array([COMPARABLE.index(spec.dtype) for spec in specs], dtype=np.intc)
        gram, sums = np.zeros((self._rows, self._rows)), np.zeros(self._rows)
        arrays = (a.ctypes.data for a in (self._raw, self._raws, self._scratch, gram, sums))
        failed = self._call(
            *(self._rows, self._first, not self._fine and is_coarse(specs, count)),
            *(handles.ctypes.data, offsets.ctypes.data, dtypes.ctypes.data, count, *arrays),
        )
        if failed:
            raise EOFError(failed - 1)
        return gram, sums


def is_coarse(specs: Sequence[TensorSpec], count: int) -> bool:
    """Return whether a stretch is summed in float32: 16-bit weights, so many that rounding averages out."""
    return count >= 1 << 16 and all(ITEM_BYTES[spec.dtype] == 2 for spec in specs)


def _aligned(nbytes: int) -> np.ndarray:
    """Return an uninitialised uint8 array that begins on a cache line."""
    room = np.empty(nbytes + 64, dtype=np.uint8)
    skip = -room.ctypes.data % 64
    return room[skip : skip + nbytes]


@functools.cache
def build() -> ctypes.CDLL | None:
    """Return the compiled library, kept from before or built now (a second or two); None without a C compiler.

    What was kept is code that will run: it counts if its content is what was written, and only its owner can have
    written it. A library that cannot be kept serves this process alone.
    """
    source = b"".join(path.read_bytes() for path in _SOURCES)
    key = hashlib.sha256(source + " ".join(_FLAGS).encode() + _processor().encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "kinmerge"  # noqa: PTH111
    with suppress(OSError, AttributeError):
        if kept := _kept(folder, key):
            return _loaded(kept)
    try:
        with tempfile.TemporaryDirectory(prefix="kinmerge-") as temporary:
            library = Path(temporary) / "gram.so"
            _compile(library)
            return _loaded(_keep(library, folder, key) or library)  # which stays mapped when the file is gone
    except (OSError, subprocess.SubprocessError):
        return None


def compiler() -> list[str]:
    """Return the command of the machine's C compiler, $CC if that is set; empty where there is none."""
    command = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or ""
    return command.split()


def _compile(library: Path) -> None:
    command = compiler()
    if not command:
        raise FileNotFoundError("no C compiler")
    command += [*_FLAGS, "-o", str(library), str(_SOURCES[0])]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _kept(folder: Path, key: str) -> Path | None:
    """Return the library of an earlier start. Its name says what its content must be."""
    if not _is_private(folder):
        return None
    for file in folder.glob(f"gram-{key}-*.so"):
        if _is_private(file) and file.name == _name(key, file.read_bytes()):
            return file
    return None


def _keep(library: Path, folder: Path, key: str) -> Path | None:
    """Keep the library; None if the folder is someone else's or the disk does not take it."""
    content = library.read_bytes()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            return None
        kept = folder / _name(key, content)
        with replacing(kept) as partial:
            partial.touch(mode=0o600)  # before there is anything in it, whatever the umask
            partial.write_bytes(content)
    except OSError:
        return None
    return kept


def _name(key: str, content: bytes) -> str:
    return f"gram-{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _is_private(path: Path) -> bool:
    """Return whether a file or folder (no link to one) is this user's own and nobody else may write to it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return plain and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _loaded(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    for size in (loaded.kinship_raw, loaded.kinship_scratch):
        size.argtypes, size.restype = [ctypes.c_int], ctypes.c_int64
    number, pointer = ctypes.c_int, ctypes.c_void_p
    loaded.kinship_stretch.argtypes = [*[number] * 3, *[pointer] * 3, ctypes.c_int64, *[pointer] * 5]
    return loaded


def _processor() -> str:
    """Describe what -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
