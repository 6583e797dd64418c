"""Which sweepers of a study are alive: each holds the lock of a file of its own, which its death releases."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.runtime.files import in_use


@contextmanager
def presence(folder: Path) -> Iterator[str]:
    """Name this sweeper, and hold a lock on a file of that name as long as it lives.

    Where it fails, the file stays, without the lock, as after a kill: its trials may be under way still in a study that
    could not be told.
    """
    name = uuid.uuid4().hex
    path = folder / f".sweeper-{name}"
    with locked(path):
        yield name
        path.unlink(missing_ok=True)


def is_gone(folder: Path, sweeper: str) -> bool:
    """Return whether that sweeper was killed; False if it lives, or its machine does not share this folder."""
    path = folder / f".sweeper-{sweeper}"
    return path.exists() and not in_use(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be, for as long as the context lasts."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
