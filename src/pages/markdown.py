"""Markdown around what strangers wrote: their names and paths stay letters, whatever signs they are made of."""

from __future__ import annotations

import re

from src.runtime.errors import printable


def plain(text: object) -> str:
    """Return a text that reads the same in Markdown, in a cell of a table too: no link, no HTML, no other column."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", printable(str(text)))


def code(text: str) -> str:
    """Return a text as code within a line; a backtick, which would end it, becomes an apostrophe."""
    return f"`{printable(text).replace('`', chr(39))}`"


def fenced(text: str, language: str) -> str:
    """Return a block of code, between fences longer than any row of backticks in it; its lines stay as they are."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}{fence}\n"
