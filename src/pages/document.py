"""A page of sections, each of words, figures and tables: one file, light or dark as the reader likes."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from src.pages.figures import PALETTE, TEMPLATE, Figure, plain, resolve
from src.pages.tables import Table


@dataclass(frozen=True)
class Drawing:
    """One figure on the page."""

    name: str
    """Of the figure, on the page and in a tracker: letters and dashes."""
    title: str
    """A few words above it."""
    figure: Figure
    min_width: int = 0
    """Pixels of width below which the figure is scrolled instead of squeezed."""


@dataclass(frozen=True)
class Sliders:
    """Weights of a merge that the reader chooses, and what is expected of it: what_if.js computes it from `data`."""

    start: Mapping[str, float]
    """By the name of a slider, where it stands at first."""
    low: float
    high: float
    rows: Sequence[Sequence[str]]
    """A row a task: its name, and scores to compare with."""
    columns: Sequence[str]
    """Headings of the scores to compare with."""
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A question, and what answers it."""

    name: str
    title: str
    words: Sequence[str]
    """How to read the figures: a paragraph each."""
    panels: Sequence[Sequence[Drawing]] = ()
    """Figures side by side; those of one panel share its place, and buttons switch between them."""
    tables: Sequence[Table] = ()
    wide: bool = False
    """Whether each figure takes the page's whole width."""
    sliders: Sliders | None = None


@dataclass(frozen=True)
class Tile:
    """One number at the top of the page."""

    title: str
    value: str
    note: str


def document(
    title: str,
    sections: Sequence[Section],
    *,
    heading: str,
    words: Sequence[str] = (),
    tiles: Sequence[Tile] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Return the page's HTML; every text in it is escaped.

    Args:
        title: the browser's.
        sections: what follows the opening, in order; links to them are made. One of them may have sliders.
        heading: the first words on the page.
        words: paragraphs below the heading.
        tiles: numbers below the words.
        warnings: paragraphs below the tiles, highlighted.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    figures = {drawing.name: plain(drawing.figure) for drawing in drawings(sections)}
    return environment.get_template("page.html").render(
        title=title,
        sections=sections,
        heading=heading,
        words=words,
        tiles=tiles,
        warnings=warnings,
        palette=PALETTE,
        data={"template": resolve(TEMPLATE.to_plotly_json(), {}), "figures": figures},
        explored=next((section.sliders.data for section in sections if section.sliders), None),
        plotly=packed_plotly(),
    )


@cache
def packed_plotly() -> str:
    """Return Plotly as the page carries it: zlib's stream in base 85, 1.8 MB instead of 4.8; page.js unpacks it.

    Of Plotly's bundles the Python package has the full one alone; packed, it is little larger than its part for
    Cartesian figures is in clear.
    """
    return base64.b85encode(zlib.compress(get_plotlyjs().encode(), 9)).decode()


def drawings(sections: Iterable[Section]) -> Iterator[Drawing]:
    """Yield every figure of these sections, in order."""
    for section in sections:
        for panel in section.panels:
            yield from panel
