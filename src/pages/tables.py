"""Tables, for a page, a terminal and a tracker."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box, table
from rich.text import Text

from src.pages.markdown import plain


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column is a name, the others are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    """Texts, as they are shown; for a tracker numbers too, and None where a cell has no figure."""
    marked: frozenset[int] = frozenset()
    """Rows that are highlighted."""
    words: frozenset[int] = frozenset({0})
    """Columns that are not numbers."""

    def markdown(self) -> str:
        """Return the table as Markdown has it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = [["" if cell is None else plain(cell) for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)

    def printed(self, title: str, folded: Container[int]) -> table.Table:
        """Return the table as a terminal shows it; the columns `folded` may take several lines."""
        shown = table.Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for place, heading in enumerate(self.columns):
            folds = place in folded
            breaks = folds and place not in self.words  # a number is never cut short
            shown.add_column(Text(heading), no_wrap=not folds, overflow="fold" if breaks else "ellipsis")
            shown.columns[-1].justify = "left" if place in self.words else "right"
        for row in self.rows:
            shown.add_row(*map(Text, row))
        return shown
