"""Who descends from whom: a layered drawing, a column a generation, with the winner's line marked."""

from __future__ import annotations

import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from src.pages.look import HEAT, KIN, Drawing, Figure, Section, figure, rounded, safe, var
from src.population import Model
from src.report.ascent import hover
from src.report.story import Story

FEW = 48
"""Models up to which every one has its name beside it."""
ABOVE, BELOW = 100, 56
"""Pixels above the drawing, for its legend, and below it."""
NAME = 18
"""Letters of a name that are shown beside a model; the pointer tells all."""
STEPS = 24
"""Merges of the winner's line that are named in words, the youngest."""
SWEEPS = 8
"""Passes over the generations that untangle the edges."""
SYMBOLS = (("founder", "square"), ("offspring", "circle"), ("exploration", "diamond"), ("failed", "x"))

Places = dict[str, tuple[float, float]]


def section(story: Story) -> Section:
    """The whole family."""
    merges = [model.name for model in story.line if model.parents]
    line = " → ".join([*(["…"] if len(merges) > STEPS else []), *merges[-STEPS:]]) or story.winner.name
    words = [
        "Founders on the left, each generation a column. A model's colour is its average; an edge's colour is the "
        f"kinship of the two parents. Thick edges and ringed models are the winner's line ({line}). "
        "Point at a model for its scores, parents and recipe.",
        *(f"{words} So are the edges to it." for words in story.left_out),
    ]
    column = 58 if len(story.shown) <= FEW else 27
    least = max(560, 150 + column * (story.population.generation + 1))
    drawing = Drawing("pedigree", "from the founders to the winner", _drawn(story), least)
    return Section("pedigree", "Who descends from whom", words, [[drawing]], wide=True)


def places(story: Story) -> Places:
    """Where each model stands: x is its generation, y its place in the column, 0 in the middle.

    Models are ordered by the mean place of their parents and children, column by column, back and forth: the
    barycentre heuristic of Sugiyama, Tagawa and Toda (1981), which keeps edges short and crossings few.
    """
    columns: dict[int, list[str]] = defaultdict(list)
    related: dict[str, list[str]] = defaultdict(list)
    there = {model.name for model in story.shown}
    for model in story.shown:
        columns[model.generation].append(model.name)
        for parent in [parent for parent in model.parents if parent in there]:
            related[model.name].append(parent)
            related[parent].append(model.name)
    y = {name: place for names in columns.values() for name, place in zip(names, _spread(len(names)), strict=True)}
    order = sorted(columns)
    for sweep in range(SWEEPS):
        for generation in order if sweep % 2 == 0 else order[::-1]:
            names = columns[generation]
            wanted = {
                name: fmean([y[other] for other in related[name]]) if related[name] else y[name] for name in names
            }
            names.sort(key=wanted.__getitem__, reverse=True)  # the highest first, as _spread has it
            y.update(zip(names, _spread(len(names)), strict=True))
    return {model.name: (float(model.generation), y[model.name]) for model in story.shown}


def _spread(count: int) -> list[float]:
    return [(count - 1) / 2 - i for i in range(count)]


def _drawn(story: Story) -> Figure:
    at = places(story)
    tallest = max(abs(y) for _, y in at.values())
    inner = int((46 if len(story.shown) <= FEW else 24) * (2 * tallest + 1.8))
    height = ABOVE + BELOW + inner
    last = story.population.generation
    every = max(1, -(-last // 40))
    longest = max((len(_label(model.name)) for model in story.shown if model.founder), default=0)
    return figure(
        [*_edges(story, at), *_nodes(story, at), *_legend(story, height)],
        height=height,
        xaxis={
            "tickvals": list(range(0, last + 1, every)),
            "ticktext": ["founders", *map(str, range(every, last + 1, every))],
            "showgrid": False,
            "range": [-0.2 - last / 60, last + 0.4],
            "title": {"text": "generation"},
        },
        yaxis={"visible": False, "range": [-tallest - 0.8, tallest + 1.0]},
        annotations=[_title(text, x, 1 + (ABOVE - 18) / inner) for text, x in zip(_titles(story), BARS, strict=False)],
        legend={"yref": "container", "y": 1 - 56 / height, "yanchor": "top"},
        margin={"t": ABOVE, "b": BELOW, "l": 14 + 8 * longest},
    )


# --- edges -----------------------------------------------------------------------------------------------------------


def _edges(story: Story, at: Places) -> list[dict[str, Any]]:
    """Lines from parents to offspring, one trace a shade and thickness: hundreds of edges, a dozen of traces."""
    low, high = _range(story)
    champions = {model.name for model in story.line}
    paths: dict[tuple[bool, int], tuple[list[float | None], list[float | None]]] = defaultdict(lambda: ([], []))
    for model in story.shown:
        related = story.kinship.mean(model.parents) if model.parents else math.nan
        shade = -1 if math.isnan(related) else min(len(KIN) - 1, int(len(KIN) * (related - low) / (high - low)))
        for parent in [parent for parent in model.parents if parent in at]:
            x, y = paths[model.name in champions, shade]
            curve = _curve(at[parent], at[model.name])
            x += [*(point[0] for point in curve), None]
            y += [*(point[1] for point in curve), None]
    few = len(story.shown) <= FEW
    shades = [colour for _, colour in _scale(story.metric.larger_is_closer)]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "hoverinfo": "skip",
            "showlegend": False,
            "opacity": 1 if marked else 0.6 if few else 0.35,
            "line": {"width": 4 if marked else 1.4 if few else 1, "color": var("line") if shade < 0 else shades[shade]},
        }
        for (marked, shade), (x, y) in sorted(paths.items())
    ]


def _curve(start: tuple[float, float], end: tuple[float, float], points: int = 10) -> list[tuple[float, float]]:
    """A line that leaves and arrives level: a cubic Bézier curve."""
    (x0, y0), (x1, y1) = start, end
    curve = []
    for step in range(points + 1):
        t = step / points
        bend = t * t * (3 - 2 * t)
        curve.append((round(x0 + (x1 - x0) * t, 3), round(y0 + (y1 - y0) * bend, 3)))
    return curve


def _range(story: Story) -> tuple[float, float]:
    """The kinships that the first and the last shade stand for."""
    values = [value for model in story.population if not math.isnan(value := story.kinship.mean(model.parents))]
    low, high = (min(values, default=0.0), max(values, default=1.0))
    if story.metric.larger_is_closer:
        high = 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _scale(closer: bool) -> list[list[Any]]:
    """Plotly's colour scale of kinship: far blue, near orange."""
    return [[i / (len(KIN) - 1), var(shade)] for i, shade in enumerate(KIN if closer else KIN[::-1])]


# --- models ----------------------------------------------------------------------------------------------------------


def _nodes(story: Story, at: Places) -> list[dict[str, Any]]:
    champions = {model.name for model in story.line}
    averages = [model.average for model in story.population.eligible() if model.average is not None]
    few = len(story.shown) <= FEW
    traces = []
    for symbol_of, symbol in SYMBOLS:
        some = [model for model in story.shown if _kind(model) == symbol_of]
        if not some:
            continue
        named = [few or model.founder or model.name == story.winner.name for model in some]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": symbol_of,
                "x": [at[model.name][0] for model in some],
                "y": [at[model.name][1] for model in some],
                "text": [safe(_label(m.name)) if shown else "" for m, shown in zip(some, named, strict=True)],
                "textposition": "middle left" if symbol_of == "founder" else "top center" if few else "middle right",
                "textfont": {"size": 12, "color": var("ink")},
                "hovertext": [_told(story, model) for model in some],
                "hoverinfo": "text",
                "showlegend": False,
                "cliponaxis": False,
                "marker": {
                    "symbol": symbol,
                    "size": [_size(story, model, few) for model in some],
                    "color": [rounded(model.average) for model in some] if symbol_of != "failed" else var("grey"),
                    "coloraxis": None,
                    "cmin": min(averages),
                    "cmax": max(averages),
                    "colorscale": HEAT,
                    "opacity": 1,
                    "line": {
                        "width": [3 if model.name in champions else 1 for model in some],
                        "color": [var("ink") if model.name in champions else var("quiet") for model in some],
                    },
                },
            }
        )
    return traces


def _kind(model: Model) -> str:
    if model.average is None or model.failure is not None:
        return "failed"
    return "founder" if model.founder else "exploration" if model.exploration else "offspring"


def _size(story: Story, model: Model, few: bool) -> int:
    return 22 if model.name == story.winner.name else 15 if few else 11


def _told(story: Story, model: Model) -> str:
    """All that is known of a model, for the pointer."""
    if model.failure is not None or model.average is None:
        why = _folded(model.failure or "not evaluated yet")
        return f"<b>{safe(model.name)}</b><br>parents: {' × '.join(map(safe, model.parents))}<br>{why}"
    scores = [f"{safe(task)} {score:.1f}" for task, score in list(model.scores.items())[:16]]
    pairs = [", ".join(scores[i : i + 2]) for i in range(0, len(scores), 2)]
    more = [f"and {len(model.scores) - 16} more tasks"] if len(model.scores) > 16 else []
    made = _folded(_recipe(model.recipe["config"]) if model.recipe else f"from {model.source or '?'}")
    return "<br>".join([hover(story, model), made, *pairs, *more])


def _recipe(config: Mapping[str, Any]) -> str:
    parameters = json.dumps(config.get("parameters") or {}, ensure_ascii=False).strip("{}").replace('"', "")
    return f"{config['merge_method']}{', ' + parameters if parameters else ''}"


def _folded(text: str) -> str:
    return "<br>".join(safe(line) for line in textwrap.wrap(text, 60)[:5])


BARS = (0.0, 0.45)
"""Where the two colour bars begin, as shares of the drawing's width."""
_NOTHING = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip"}


def _titles(story: Story) -> list[str]:
    """Of the colour bars; that of kinship only where something was merged."""
    merged = any(model.parents for model in story.population)
    return ["average, points", *([f"kinship of the parents ({story.metric.name})"] if merged else [])]


def _legend(story: Story, height: int) -> list[dict[str, Any]]:
    """Two colour bars above the drawing, and the symbols."""
    averages = [model.average for model in story.population.eligible() if model.average is not None]
    scales = [
        (HEAT, min(averages), max(averages), BARS[0]),
        (_scale(story.metric.larger_is_closer), *_range(story), BARS[1]),
    ]
    bars = [_bar(*scale, 1 - 20 / height) for scale, _ in zip(scales, _titles(story), strict=False)]
    kinds = {_kind(model) for model in story.shown}
    symbols = [
        {**_NOTHING, "name": name, "marker": {"symbol": symbol, "size": 10, "color": var("quiet")}}
        for name, symbol in SYMBOLS
        if name in kinds
    ]
    return [*bars, *symbols]


def _bar(scale: Any, low: float, high: float, x: float, y: float) -> dict[str, Any]:
    """A trace without points, for the sake of its colour bar; the bar's own title would lie upon it."""
    bar = {
        "orientation": "h",
        "thickness": 10,
        "lenmode": "pixels",
        "len": 150,
        "xpad": 0,
        "ypad": 0,
        "nticks": 5,
        "outlinewidth": 0,
    }
    bar |= {"x": x, "xanchor": "left", "yref": "container", "y": y, "yanchor": "top", "tickfont": {"size": 11}}
    marker = {"color": [low], "cmin": low, "cmax": high, "colorscale": scale, "showscale": True, "colorbar": bar}
    return {**_NOTHING, "showlegend": False, "marker": marker}


def _title(text: str, x: float, y: float) -> dict[str, Any]:
    return {
        "text": text,
        "x": x,
        "xref": "paper",
        "xanchor": "left",
        "y": y,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 12, "color": var("quiet")},
    }


def _label(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"
