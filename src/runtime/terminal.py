"""The terminal, as every command writes to it: a text is never markup, and nothing in it acts on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from src.runtime.errors import printable_lines


class _Console(Console):
    """What a text holds besides letters is spelled out once it is laid out; colours are the console's own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)


def console(*, width: int | None = None, soft_wrap: bool = False) -> Console:
    """Return a console on stdout that shows `[/INST]`, `:smile:` and escapes as they are written.

    With `soft_wrap` the terminal, not the console, breaks long lines; the width is the terminal's unless given.
    """
    return _Console(width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {printable_lines(message)}", file=sys.stderr)
