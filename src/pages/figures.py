"""Plotly figures in one style, for a reader's choice of light or dark.

Colours are written as var(--name) and resolved where a figure is drawn: by the page, from the reader's preference;
outside of it, as light. The hues are those of Okabe and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from plotly.graph_objects import Bar, Figure, Layout, Scatter, layout

from src.runtime.errors import printable_lines

Item = TypeVar("Item")

PALETTE: Mapping[str, Mapping[str, str]] = json.loads((Path(__file__).parent / "palette.json").read_text())
"""Colours by name, for light and for dark."""
KINSHIP_SHADES = ("kin0", "kin1", "kin2", "kin3", "kin4")
"""Colours of kinship, from far (blue) to near (orange)."""
HUES = ("blue", "green", "purple", "yellow", "sky")
"""Colours of founders; orange is for the winner and for explorations."""
HEAT = "Viridis"
"""The colour scale of ordered values: colour-blind people can read it, and so can readers of a print in grey."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def var(name: str) -> str:
    """Return a colour of the palette, to be resolved where the figure is drawn."""
    return f"var(--{name})"


_AXIS = {
    "gridcolor": var("grid"),
    "linecolor": var("line"),
    "tickcolor": var("line"),
    "tickfont_color": var("quiet"),
    "zerolinecolor": var("line"),
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13, "color": var("quiet")}},
}
TEMPLATE = layout.Template(
    layout=Layout(
        template="none",
        font={"family": FONT, "size": 13, "color": var("ink")},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        xaxis=_AXIS,
        yaxis=_AXIS,
        hoverlabel={"bgcolor": var("card"), "bordercolor": var("line"), "align": "left"},
        hoverlabel_font={"family": FONT, "size": 13, "color": var("ink")},
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font_size": 12},
        legend_traceorder="normal",
        barmode="stack",
    )
)


def figure(traces: Iterable[Any], height: int = 340, **settings: Any) -> Figure:
    """Return a figure in the style of the page, `height` pixels high."""
    return Figure(list(traces), Layout(template=TEMPLATE, height=height, **settings))


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return the settings of an axis with a title."""
    return {"title": {"text": title}, **more}


def marks(name: str, x: Sequence[Any], y: Sequence[Any], text: Sequence[str], **marker: Any) -> Scatter:
    """Return points that say `text` at the pointer, each set off from those below it.

    `marker` is Plotly's: color (the name of one), size, symbol.
    """
    style = {"size": 8, **marker, "color": var(marker.get("color", "blue")), "line": {"color": var("card"), "width": 1}}
    return Scatter(name=name, mode="markers", x=x, y=y, text=text, hoverinfo="text", marker=style)


def bars(values: Mapping[str, float], texts: Sequence[str], title: str, colours: Sequence[str], height: int) -> Figure:
    """Return a bar a name, the first on top, with its text behind it; `title` is the axis'."""
    bar = Bar(orientation="h", x=list(values.values()), y=list(map(escape, values)), text=texts, width=0.6)
    bar.update(textposition="outside", cliponaxis=False, hoverinfo="y+text", marker_color=list(map(var, colours)))
    low, high = min(0.0, *values.values()), max(values.values())
    room = 0.2 * (high - low)  # for the texts
    across = axis(title, range=[low - room if low else low, high + room])
    return figure([bar], height, xaxis=across, yaxis={"type": "category", "autorange": "reversed"})


def escape(name: str) -> str:
    """Return a name as a figure may show it: Plotly takes some HTML within texts, and `var(--…)` is a colour here."""
    return html.escape(printable_lines(str(name)), quote=False).replace("var(--", "var&#40;--")


def thin_out(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of the items, evenly spaced, with the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def plain(drawn: Figure) -> dict[str, Any]:
    """Return a figure as JSON takes it, without its template; colours stay names."""
    found = drawn.to_plotly_json()
    del found["layout"]["template"]
    return dict(resolve(found, {}))


def standalone(drawn: Figure, title: str) -> Figure:
    """Return the figure as it is shown outside the page: in light colours, with a title."""
    found = Figure(drawn)
    found.update_layout(title_text=title, paper_bgcolor=var("card"), plot_bgcolor=var("card"))
    found.update_layout(margin={"t": 90, "l": 60, "r": 20, "b": 50})
    return Figure(resolve(found.to_plotly_json(), PALETTE["light"]))


def resolve(value: Any, palette: Mapping[str, str]) -> Any:
    """Return the same nested data with the palette's colours for their names, and numbers of four digits.

    None, as JSON has no other word for it, stands where there was no finite number.
    """
    if isinstance(value, str):
        return palette.get(value[6:-1], value) if value.startswith("var(--") else value
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: resolve(one, palette) for key, one in value.items()}
    return [resolve(one, palette) for one in value] if isinstance(value, list | tuple) else value
