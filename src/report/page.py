"""One self-contained page on a run: no network, opens from a file, light or dark as the reader likes."""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from src.report import ascent, change, costs, lead, pedigree, relation, relatives, scores
from src.report.look import DARK, LIGHT, TEMPLATE, Drawing, Section, Table, alone
from src.report.story import Story, read

if TYPE_CHECKING:
    from src.track import Tracker

SECTIONS = (ascent, pedigree, relatives, relation, change, scores, costs)
NAME = "report.html"


def write(folder: Path, target: Path | None = None) -> Path:
    """Make the page of the run in `folder`, beside its place first; where it lies.

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
    """
    story = read(folder)
    return _put(render(story, sections(story)), target or folder / NAME)


def present(folder: Path, tracker: Tracker, generation: int) -> None:
    """Make the page of a run that has ended, and send its figures to the tracker.

    A page is not worth a run: whatever fails here costs the page and a warning.
    """
    try:
        story = read(folder)
        found = sections(story)
        _put(render(story, found), folder / NAME)
        for drawing in drawings(found):
            tracker.figure(drawing.name, alone(drawing), generation)
    except Exception as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        print(f"warning: the page failed ({told}); python -m src.report {folder} tries again", file=sys.stderr)


def sections(story: Story) -> list[Section]:
    """All that the page shows, in order."""
    return [module.section(story) for module in SECTIONS]


def drawings(found: Iterable[Section]) -> Iterator[Drawing]:
    """Every figure of the page, in order."""
    for section in found:
        for panel in section.panels:
            yield from panel


def render(story: Story, found: Sequence[Section]) -> str:
    """The page's HTML. Whatever a user named is escaped."""
    here = Path(__file__).parent
    figures = {drawing.name: drawing.figure for drawing in drawings(found)}
    body = "\n".join(
        [
            _opening(story, found),
            *map(_section, found),
            f'<section id="about-models"><h2>All models</h2>{_table(lead.models(story))}</section>',
        ]
    )
    filled = {
        "title": html.escape(f"{story.name}: {story.winner.name}"),
        "style": _colours() + (here / "page.css").read_text(),
        "body": body,
        "figures": _data({"template": TEMPLATE, "figures": figures}),
        "plotly": _plotly(),
        "script": (here / "page.js").read_text(),
    }
    text = (here / "page.html").read_text()
    before, *parts = text.split("{{")
    return before + "".join(filled[name] + rest for name, rest in (part.split("}}", 1) for part in parts))


def _put(text: str, target: Path) -> Path:
    beside = target.with_name(f".{target.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(target)
    return target


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


def _opening(story: Story, found: Sequence[Section]) -> str:
    shown = "".join(
        f'<div class="tile"><span>{html.escape(tile.title)}</span><b>{html.escape(tile.value)}</b>'
        f"<small>{html.escape(tile.note)}</small></div>"
        for tile in lead.tiles(story)
    )
    said = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in lead.warnings(story))
    links = "".join(f'<a href="#about-{section.name}">{html.escape(section.title)}</a>' for section in found)
    return (
        f"<header><h1>{html.escape(story.name)}</h1>{_paragraphs(lead.words(story))}"
        f'<div class="tiles">{shown}</div>{said}<nav>{links}<a href="#about-models">All models</a></nav></header>'
    )


def _section(section: Section) -> str:
    panels = "".join(map(_panel, section.panels))
    grid = f'<div class="panels{" wide" if section.wide else ""}">{panels}</div>' if panels else ""
    tables = "".join(map(_table, section.tables))
    return (
        f'<section id="about-{section.name}"><h2>{html.escape(section.title)}</h2>{_paragraphs(section.words)}'
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


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _table(table: Table) -> str:
    lines = [
        _row("th", table.columns, False),
        *(_row("td", row, i in table.marked) for i, row in enumerate(table.rows)),
    ]
    body = "".join(lines[1:])
    return f'<div class="scroll"><table><thead>{lines[0]}</thead><tbody>{body}</tbody></table></div>'


def _row(element: str, cells: Sequence[str], marked: bool) -> str:
    inner = "".join(f"<{element}>{html.escape(cell)}</{element}>" for cell in cells)
    return f'<tr class="marked">{inner}</tr>' if marked else f"<tr>{inner}</tr>"
