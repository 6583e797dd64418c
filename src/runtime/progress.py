"""Progress of long work: bars on a terminal, lines where the output goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from src.runtime import log
from src.runtime.errors import printable_lines

Progress = Callable[[int, int], None]


@contextmanager
def bar(label: str, total: int | None = None, unit: str = "") -> Iterator[tqdm]:
    """Show a bar over `total` items (or, without, over what `whole` is told), gone when its work is done."""
    layout = "{desc} {bar:30} {n:.1f}/{total} {unit}s  {elapsed} < {remaining}" if total else None
    with tqdm(
        total=total,
        desc=f"{label:>18}",
        unit=unit,
        unit_scale=unit == "byte",
        disable=None,
        leave=False,
        bar_format=layout,
    ) as shown:
        yield shown


def note(text: str) -> None:
    """Print a line about something finished, where no bar shows it."""
    if sys.stderr.isatty():
        log.note(printable_lines(text))
    else:
        print(printable_lines(text), flush=True)


def whole(on: tqdm) -> Progress:
    """Progress of all the work there is: done and in all, in the bar's unit."""

    def follow(done: int, total: int) -> None:
        on.total = total
        on.update(done - on.n)

    return follow


class Items:
    """Progress of work on one item after another."""

    def __init__(self, on: tqdm) -> None:
        """Show it on this bar."""
        self._bar, self._before = on, 0

    def follow(self, done: int, total: int) -> None:
        """Show a share of the item at hand."""
        self._bar.update(self._before + done / max(total, 1) - self._bar.n)

    def finished(self) -> None:
        """Go on to the next item."""
        self._before += 1


@contextmanager
def items(label: str, total: int, unit: str) -> Iterator[Items]:
    """Show a bar over `total` items of work, each of which tells how far it is."""
    with bar(label, total=total, unit=unit) as shown:
        yield Items(shown)
