"""The table: a line as soon as it is known, and docs/gpu.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.gpu.place import Row

HEADER = "| | here | beside it | |\n| --- | --- | --- | --- |"
MARKS = {True: "yes", False: "**NO**", None: ""}


def line(row: Row) -> str:
    """Return a row of the table."""
    cells = (row.what, row.found, row.beside, MARKS[row.held])
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def page(machine: str, command: str, sections: Mapping[str, tuple[float, Sequence[Row]]]) -> str:
    """Return docs/gpu.md: what each section found, in how many seconds."""
    text = [
        "# What was measured on a GPU",
        "",
        machine,
        "",
        f"By `{command}`. The last column: whether what was promised was seen.",
        "",
    ]
    for title, (seconds, rows) in sections.items():
        text += [f"## {title[0].upper()}{title[1:]} ({seconds:.0f} s)", "", HEADER, *map(line, rows), ""]
    return "\n".join(text)
