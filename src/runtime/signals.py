"""Ctrl-C and SIGTERM: finish the current write, say how to go on, and be gone within two seconds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 1.5
"""Seconds that the program has to leave in order; leaving at once is safe too, since the journal is always synced."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user, or the machine's owner, wants the run to end now."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum
        self.cause: str | None = None
        """Why the run cannot go on, where this is known to be the end of another process."""


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Hold signals back within the context: the first raises `Interrupted` and the second ends the process at once.

    A long computation keeps Python from raising anything, so a thread watches too: it prints `advice` and ends the
    process when `PATIENCE` is over. Only the main thread may enter.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {signum: signal.signal(signum, _raise) for signum in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, advice), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(writer)


def loading() -> None:
    """Have Ctrl-C end the process in one line: while libraries are imported, whatever it raised could be lost in them.

    `interruptible`, or `loaded`, takes its place.
    """
    signal.signal(signal.SIGINT, _end_at_once)


def loaded() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, after `loading`."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + signum)


class _Hold:
    """Whether a write is under way, and the signal that came meanwhile.

    Blocking signals would not do: they are blocked for one thread, and the libraries have threads of their own.
    """

    depth = 0
    pending: int | None = None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have signals wait within the context: for the few milliseconds of a write."""
    _Hold.depth += 1
    try:
        yield
    finally:
        _Hold.depth -= 1
    if _Hold.depth == 0 and _Hold.pending is not None:
        signum, _Hold.pending = _Hold.pending, None
        raise Interrupted(signum)


def _raise(signum: int, frame: FrameType | None) -> None:
    if _Hold.depth:
        _Hold.pending = signum
    else:
        raise Interrupted(signum)


def _watch(reader: int, advice: str) -> None:
    """Wait for a signal's number in the pipe; then for a second signal, or until patience is over."""
    first = _next(reader)
    if first is None:
        return
    deadline = threading.Timer(PATIENCE, _leave, (first, advice))
    deadline.daemon = True
    deadline.start()
    began = time.monotonic()
    while (again := _next(reader)) is not None:
        if time.monotonic() - began > 0.05:  # one key press may send the signal twice, through the process group
            _leave(again, advice)


def _next(reader: int) -> int | None:
    while data := os.read(reader, 1):
        if data[0] in SIGNALS:
            return data[0]
    return None


def _leave(signum: int, advice: str) -> None:
    print(f"\n{advice}", file=sys.stderr, flush=True)
    os._exit(128 + signum)
