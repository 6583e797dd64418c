"""The log of a run: what its terminal showed, as plain text, start after start, in the run's own folder.

Whatever is printed within `copying` goes to the terminal as ever and, once `keep_in` has said where, to the file; what
was printed before is kept until then. Bars, which a terminal overwrites, are left out.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.text import Text

NAME = "run.log"
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
"""Environment variables whose values never reach the file, whoever prints them."""


class _Log:
    """Lines, in memory until there is a file."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._file: TextIO | None = None

    def add(self, line: str) -> None:
        for name in SECRETS:
            if secret := os.environ.get(name):
                line = line.replace(secret, f"({name})")
        self._lines.append(line.rstrip())
        self._write()

    def open(self, path: Path) -> None:
        with suppress(OSError):  # a folder that cannot be written to ends no run for its log's sake
            self._file = path.open("a", encoding="utf-8")
        self._write()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self) -> None:
        if self._file is None:
            return
        with suppress(OSError):  # a full disk
            self._file.write("".join(f"{line}\n" for line in self._lines))
            self._file.flush()
        self._lines.clear()


class _Copy:
    """A stream that tells a log of every line that is finished."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream = stream
        self._log = log
        self._begun = ""

    def write(self, text: str) -> int:
        """Write to the stream, as ever."""
        *lines, rest = (self._begun + text).split("\n")
        for line in lines:
            self._log.add(Text.from_ansi(line.rpartition("\r")[2]).plain)
        self._begun = "" if "\r" in rest else rest  # a bar is overwritten, or gone, before anything else is printed
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_current: _Log | None = None


@contextmanager
def copying() -> Iterator[None]:
    """Have what is printed within this context remembered for `keep_in`, and the traceback of what ends it."""
    global _current
    before, _current = _current, (log := _Log())
    log.add(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')}")
    out, err = (cast("TextIO", _Copy(stream, log)) for stream in (sys.stdout, sys.stderr))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    except Exception:
        for line in traceback.format_exc().splitlines():
            log.add(line)
        raise
    finally:
        log.close()
        _current = before


def keep_in(folder: Path) -> None:
    """Append what was printed since `copying` began, and from now on is, to the log in a run's folder."""
    if _current is not None:
        _current.open(folder / NAME)


def note(line: str) -> None:
    """Add a line that the terminal does not show, since a bar there tells as much."""
    if _current is not None:
        _current.add(line)
