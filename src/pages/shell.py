"""The document that sections of words, figures and tables become: no network, light or dark as the reader likes."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from src.pages.look import DARK, LIGHT, TEMPLATE, Drawing, Section, Table

LONG = 24
"""Rows beyond which a table scrolls by itself."""


def document(title: str, opening: str, sections: Sequence[Section]) -> str:
    """The HTML: `opening` is markup, everything else is escaped. Links to the sections follow the opening."""
    here = Path(__file__).parent
    links = "".join(f'<a href="#about-{section.name}">{html.escape(section.title)}</a>' for section in sections)
    figures = {drawing.name: drawing.figure for drawing in drawings(sections)}
    filled = {
        "title": html.escape(title),
        "style": _colours() + (here / "page.css").read_text(),
        "body": "\n".join([f"<header>{opening}<nav>{links}</nav></header>", *map(_section, sections)]),
        "figures": _data({"template": TEMPLATE, "figures": figures}),
        "plotly": _plotly(),
        "script": (here / "page.js").read_text(),
    }
    text = (here / "page.html").read_text()
    before, *parts = text.split("{{")
    return before + "".join(filled[name] + rest for name, rest in (part.split("}}", 1) for part in parts))


def put(text: str, target: Path) -> Path:
    """Write it beside its place and rename, so that a reader finds all of it or none; the place."""
    beside = target.with_name(f".{target.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(target)
    return target


def drawings(found: Iterable[Section]) -> Iterator[Drawing]:
    """Every figure of these sections, in order."""
    for section in found:
        for panel in section.panels:
            yield from panel


def paragraphs(texts: Iterable[str]) -> str:
    """Texts as markup, a paragraph each."""
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _plotly() -> str:
    """Plotly's script, as its package brings it."""
    package = find_spec("plotly")
    assert package is not None
    assert package.submodule_search_locations is not None
    return (Path(package.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _data(content: object) -> str:
    """JSON within a page: nothing in it can end the element that it stands in."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _colours() -> str:
    """The palette as CSS, from which the script takes the figures' colours too."""
    light, dark = (" ".join(f"--{name}: {value};" for name, value in one.items()) for one in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _section(section: Section) -> str:
    panels = "".join(map(_panel, section.panels))
    grid = f'<div class="panels{" wide" if section.wide else ""}">{panels}</div>' if panels else ""
    tables = "".join(map(_table, section.tables))
    return (
        f'<section id="about-{section.name}"><h2>{html.escape(section.title)}</h2>{paragraphs(section.words)}'
        f"{grid}{tables}</section>"
    )


def _panel(panel: Sequence[Drawing]) -> str:
    """Figures that share a place: the first is shown, buttons turn to the others."""
    caption = html.escape(panel[0].title) if len(panel) == 1 else "".join(map(_button, panel, _firsts(panel)))
    canvases = "".join(map(_canvas, panel, _firsts(panel)))
    return f"<figure><figcaption>{caption}</figcaption>{canvases}</figure>"


def _firsts(panel: Sequence[Drawing]) -> list[bool]:
    return [number == 0 for number in range(len(panel))]


def _button(drawing: Drawing, first: bool) -> str:
    pressed = "true" if first else "false"
    title = html.escape(drawing.title)
    return f'<button type="button" data-shows="{drawing.name}" aria-pressed="{pressed}">{title}</button>'


def _canvas(drawing: Drawing, first: bool) -> str:
    height = drawing.figure["layout"]["height"]
    least = f"min-width:{drawing.least}px;" if drawing.least else ""
    return (
        f'<div class="scroll"{"" if first else " hidden"}><div class="canvas" id="{drawing.name}" role="img" '
        f'aria-label="{html.escape(drawing.title)}" style="{least}height:{height}px"></div></div>'
    )


def _table(table: Table) -> str:
    head = _row("th", table.columns, table.words)
    body = "".join(_row("td", row, table.words, marked=i in table.marked) for i, row in enumerate(table.rows))
    title = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    tall = " tall" if len(table.rows) > LONG else ""
    return f'<div class="scroll{tall}"><table>{title}<thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(element: str, cells: Sequence[str], words: frozenset[int], *, marked: bool = False) -> str:
    kinds = (" class=words" if i in words else "" for i in range(len(cells)))
    filled = (f"<{element}{kind}>{html.escape(cell)}</{element}>" for kind, cell in zip(kinds, cells, strict=True))
    inner = "".join(filled)
    return f'<tr class="marked">{inner}</tr>' if marked else f"<tr>{inner}</tr>"
