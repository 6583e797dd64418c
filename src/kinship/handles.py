"""Handles: the weights' files open for reading, a bounded number of them at a time."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from src.runtime.errors import MachineError, UserError

_MOST = 512


class Handles:
    """Open files that threads borrow; they stay open until others need their place.

    At most `_MOST` are open, or half of what the system allows this process: the rest is for whatever else it does.
    """

    def __init__(self) -> None:
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST if allowed == resource.RLIM_INFINITY else min(_MOST, allowed // 2)
        self._open: dict[Path, int] = {}  # the oldest first
        self._borrowers: dict[Path, int] = {}  # how many, of files that have any
        self._returned = threading.Condition()

    @contextmanager
    def borrow(self, files: Sequence[Path]) -> Iterator[list[int]]:
        """Yield a descriptor for each of `files`; wait while other threads have borrowed too many.

        Raises:
            UserError: a file that cannot be opened.
            MachineError: these alone are more than the system allows.
        """
        with self._returned:
            while self._borrowers and len(self._borrowers.keys() | files) > self._most:
                self._returned.wait()
            for file in files:
                self._borrowers[file] = self._borrowers.get(file, 0) + 1
        try:
            with self._returned:
                borrowed = [
                    self._open[file] if file in self._open else self._opened(file, len(files)) for file in files
                ]
            yield borrowed
        finally:
            with self._returned:
                for file in files:
                    self._borrowers[file] -= 1
                    if not self._borrowers[file]:
                        del self._borrowers[file]
                self._returned.notify_all()

    def close(self) -> None:
        """Close every file; none may be borrowed."""
        for file in list(self._open):
            os.close(self._open.pop(file))

    def _opened(self, file: Path, together: int) -> int:
        """Open a file, one of `together`, after closing idle ones where there are too many."""
        idle = (other for other in list(self._open) if other not in self._borrowers)
        while len(self._open) >= self._most and (other := next(idle, None)):
            os.close(self._open.pop(other))
        try:
            self._open[file] = os.open(file, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise MachineError(
                    f"{file}: {together} files must be open at once and the system does not allow it "
                    f"({error.strerror}); allow more: ulimit -n 4096"
                ) from None
            raise UserError(f"{file}: cannot be read ({error.strerror}); check that it is still there") from None
        return self._open[file]
