"""What all figures share: colours for light and dark, type, axes. A figure is Plotly's own plain data.

Colours are written as var(--name) and resolved where a figure is drawn: by the page, from the reader's preference for
light or dark; for a tracker, as light. The hues are those of Okabe and Ito, which colour-blind people tell apart.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from src.runtime.errors import printable_lines

Figure = dict[str, Any]
Item = TypeVar("Item")

LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#1c2127",
    "quiet": "#5b6570",
    "grid": "#e6e9ed",
    "line": "#c5ccd3",
    "blue": "#0072b2",
    "band": "rgba(0,114,178,0.14)",
    "orange": "#d55e00",
    "green": "#00855f",
    "purple": "#b0568c",
    "yellow": "#b98900",
    "sky": "#3d97cf",
    "grey": "#8a939c",
    "kin0": "#0072b2",
    "kin1": "#6aa6cd",
    "kin2": "#b3bac1",
    "kin3": "#e39a5f",
    "kin4": "#d55e00",
}
DARK = {
    "page": "#0f1216",
    "card": "#181c22",
    "ink": "#e8ebef",
    "quiet": "#a2acb7",
    "grid": "#2a3038",
    "line": "#444d58",
    "blue": "#4aa8e0",
    "band": "rgba(74,168,224,0.20)",
    "orange": "#f28a3c",
    "green": "#2fc79a",
    "purple": "#d98fbd",
    "yellow": "#e8bd43",
    "sky": "#8ccbf2",
    "grey": "#8a939c",
    "kin0": "#4aa8e0",
    "kin1": "#4a7fa3",
    "kin2": "#66707b",
    "kin3": "#b0743f",
    "kin4": "#f28a3c",
}
KIN = ("kin0", "kin1", "kin2", "kin3", "kin4")
"""Shades of kinship, from far (blue) to near (orange)."""
HUES = ("blue", "green", "purple", "yellow", "sky")
"""For founders, one each; orange is for what stands out: explorations and the winner."""
HEAT = "Viridis"
"""For ordered values: the same to every eye, and printed in grey it still rises."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def var(name: str) -> str:
    """A colour of the palette, to be resolved where the figure is drawn."""
    return f"var(--{name})"


_AXIS = {
    "gridcolor": var("grid"),
    "linecolor": var("line"),
    "tickcolor": var("line"),
    "zerolinecolor": var("line"),
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13, "color": var("quiet")}},
    "tickfont": {"color": var("quiet")},
}
_BAR = {"outlinewidth": 0, "thickness": 12, "tickfont": {"color": var("quiet")}, "title": {"font": {"size": 12}}}
TEMPLATE: Figure = {
    "layout": {
        "font": {"family": FONT, "size": 13, "color": var("ink")},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
        "hoverlabel": {
            "bgcolor": var("card"),
            "bordercolor": var("line"),
            "font": {"family": FONT, "size": 13, "color": var("ink")},
            "align": "left",
        },
        "hovermode": "closest",
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
            "traceorder": "normal",
        },
        "barmode": "stack",
    }
}


@dataclass(frozen=True)
class Drawing:
    """One figure on the page."""

    name: str
    """Of the figure, on the page and in a tracker: letters and dashes."""
    title: str
    """A few words above it."""
    figure: Figure
    """Plotly's `data` and `layout`."""
    least: int = 0
    """Pixels of width below which the figure is scrolled instead of squeezed."""


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is a name, the others are figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    """Rows that stand out."""
    words: frozenset[int] = frozenset({0})
    """Columns that are no figures."""
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A question about the run, and what answers it."""

    name: str
    title: str
    words: Sequence[str]
    """What is to be seen, and how to read it: a paragraph each."""
    panels: Sequence[Sequence[Drawing]] = ()
    """Figures side by side; those of one panel share its place, and the reader turns from one to the other."""
    tables: Sequence[Table] = ()
    wide: bool = False
    """Whether the figures take the page's whole width each."""


def figure(data: Sequence[Mapping[str, Any]], height: int = 340, **layout: Any) -> Figure:
    """Plotly's plain data of a figure."""
    return {"data": [dict(trace) for trace in data], "layout": {"height": height, **layout}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title."""
    return {"title": {"text": title}, **more}


def worded(value: float, spec: str) -> str:
    """The value in words, without a minus before nothing."""
    text = format(value, spec)
    return text.replace("-", "+" if spec.startswith("+") else "", 1) if not text.strip("-+0.") else text


def span(low: float, high: float) -> str:
    """An interval in words."""
    return f"{worded(low, '+.2f')} to {worded(high, '+.2f')}"


def chance(p: float) -> str:
    """A p value in words."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def many(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def safe(name: str) -> str:
    """A name as a figure may show it: Plotly takes a few HTML tags within texts, and `var(--…)` is a colour here."""
    return html.escape(printable_lines(str(name)), quote=False).replace("var(--", "var&#40;--")


def resolved(value: Any, palette: Mapping[str, str]) -> Any:
    """The same plain data with the palette's colours in it."""
    if isinstance(value, str):
        return palette.get(value[6:-1], value) if value.startswith("var(--") else value
    if isinstance(value, Mapping):
        return {key: resolved(one, palette) for key, one in value.items()}
    return [resolved(one, palette) for one in value] if isinstance(value, list | tuple) else value


def alone(drawing: Drawing) -> Figure:
    """The figure as it is shown outside the page: light, with its template and title."""
    layout = {**drawing.figure["layout"], "template": TEMPLATE, "title": {"text": drawing.title}}
    layout |= {
        "paper_bgcolor": var("card"),
        "plot_bgcolor": var("card"),
        "margin": {"t": 90, "l": 60, "r": 20, "b": 50},
    }
    layout.pop("width", None)
    return dict(resolved({"data": drawing.figure["data"], "layout": layout}, LIGHT))


def rounded(value: float | None, digits: int = 4) -> float | None:
    """The value as JSON takes it: None where it is not a finite number."""
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else round(value, digits)
