"""A section in a process of its own: it may fail, hang or spoil the GPU's state without the others."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import Place, Row


@dataclass(frozen=True)
class Section:
    """What is run, and how long it may take."""

    title: str
    work: Callable[[Place], Iterator[Row]]
    least: float
    """Seconds below which it is not begun."""
    most: float
    """Seconds after which it is ended."""


def begin(place: Place) -> Iterator[Row]:
    """Make what other sections share: a family of 1 B parameters."""
    from benchmarks.gpu import family

    made = family.generate(place.folder / "one", place.sizes.one, 2, place.device)
    rate = made.nbytes / made.seconds / 1e9
    yield Row(
        f"a base and two founders, {place.sizes.name('1 B')}, drawn and written",
        f"{made.seconds:.1f} s, {rate:.1f} GB/s",
    )


def facts(place: Place) -> Iterator[Row]:
    """Say what the machine is."""
    import torch
    import transformers

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        name = f"{torch.cuda.device_count()} × {found.name}, {found.total_memory / 2**30:.0f} GiB"
        torch.zeros(1, device="cuda:0")
    else:
        name = "no GPU"
    yield Row(
        str(torch.cuda.device_count()), f"{name}; torch {torch.__version__}, transformers {transformers.__version__}"
    )


def separate(section: Section, place: Place, seconds: float, log: Path, way: str) -> Iterator[Row]:
    """Yield the rows of a section as they come, and one that says how it failed.

    Args:
        section: what is run.
        place: what it is given.
        seconds: after which it is ended.
        log: receives whatever it and its programs print.
        way: fork, which spares it the imports; or spawn.
    """
    context: Any = get_context(way)
    here, there = context.Pipe(duplex=False)
    end = time.monotonic() + seconds
    process = context.Process(target=_child, args=(section, replace(place, end=end), log, there))
    process.start()
    there.close()
    try:
        while here.poll(max(0.0, end - time.monotonic())):
            found = here.recv()
            if found is None:
                break
            yield found
        else:
            yield Row("ended", f"its {seconds:.0f} s were over", held=False)
    except EOFError:
        process.join(5)
        yield Row("failed", f"its process ended with status {process.exitcode}", held=False)
    finally:
        _end(process.pid)
        process.join(5)


def _child(section: Section, place: Place, log: Path, to: Connection) -> None:
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    print(f"=== {section.title}", flush=True)
    try:
        for row in section.work(place):
            print(row, flush=True)
            to.send(row)
    except BaseException as error:
        traceback.print_exc()
        to.send(Row("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", held=False))
    to.send(None)


def _end(leader: int | None) -> None:
    """End a section and all that it started."""
    if leader is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
