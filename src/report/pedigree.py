"""Who descends from whom: a layered drawing, a column a generation, with the winner's lineage marked."""

from __future__ import annotations

import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import HEAT, KINSHIP_SHADES, axis, escape, figure, var
from src.population import Model
from src.report.layers import Layers, Place, layers
from src.report.points import KINDS, hover, kind_of
from src.report.run_data import RunData

FEW = 48
"""Models up to which every one has its name beside it."""
ABOVE, BELOW = 100, 56
"""Pixels above the drawing, for its legend, and below it."""
LABEL = 18
"""Letters of a name that are shown beside a model; the pointer shows all."""
STEPS = 24
"""Merges of the winner's lineage that are named in words, the latest."""
LABELLED = 0.25
"""Room above a model for its name, in models."""
TASKS = 16
"""Scores that are shown at the pointer."""


def section(run: RunData) -> Section:
    """Return the pedigree of all models, or of those that are shown."""
    merges = [model.name for model in run.lineage if model.parents]
    line = " → ".join([*(["…"] if len(merges) > STEPS else []), *merges[-STEPS:]]) or run.winner.name
    words = [
        "Founders on the left, each generation a column. A model's colour is its average; an edge's colour is the "
        f"kinship of the parents. Thick edges and ringed models are the winner's line ({line}). "
        "Point at a model for its scores, parents and recipe. Edges from one parent share a line as far as they go "
        "together, grey where their kinships differ; merges of the same three parents or more meet in a dot.",
        *(f"{words} So are the edges to it." for words in run.omissions),
    ]
    column = 52 if len(run.shown) <= FEW else 27
    min_width = max(560, 150 + column * (run.population.generation + 1))
    drawing = Drawing("pedigree", "from the founders to the winner", _draw(run), min_width)
    return Section("pedigree", "Who descends from whom", words, [[drawing]], wide=True)


def layout(run: RunData) -> Layers:
    """Return where the models that are shown stand, and the lines between them."""
    return layers(run.shown, LABELLED if len(run.shown) <= FEW else 0.0)


def _draw(run: RunData) -> Figure:
    laid = layout(run)
    at = laid.models
    tallest = max(abs(y) for _, y in (*at.values(), *(line.end for line in laid.lines)))
    inner = int((46 if len(run.shown) <= FEW else 24) * (2 * tallest + 1.8))
    height = ABOVE + BELOW + inner
    last = run.population.generation
    every = max(1, -(-last // 40))
    longest = max((len(_label(model.name)) for model in run.shown if model.founder), default=0)
    averages = [model.average or 0.0 for model in run.population.eligible()]
    top = 1 - 14 / height
    shades = [[i / (len(KINSHIP_SHADES) - 1), shade] for i, shade in enumerate(_shades(run))]
    across = axis("generation", range=[-0.2 - last / 60, last + 0.4], showgrid=False)
    across["tickvals"] = list(range(0, last + 1, every))
    across["ticktext"] = ["founders", *map(str, across["tickvals"][1:])]
    return figure(
        [*_edges(run, laid), *_junctions(run, laid), *_nodes(run, at), *_legend(run)],
        height,
        xaxis=across,
        yaxis={"visible": False, "range": [-tallest - 0.8, tallest + 1.0]},
        coloraxis=_colour_axis("average, points", HEAT, averages, 0.0, top),
        coloraxis2=_colour_axis(f"kinship of the parents ({run.metric.name})", shades, _kinship_range(run), 0.45, top),
        legend={"yref": "container", "y": 1 - 56 / height, "yanchor": "top"},
        margin={"t": ABOVE, "b": BELOW, "l": 14 + 8 * longest},
    )


# --- edges -----------------------------------------------------------------------------------------------------------


def _edges(run: RunData, laid: Layers) -> list[Scatter]:
    """Return lines from parents to offspring: one trace for each shade and width, as traces are slow, not edges."""
    low, high = _kinship_range(run)
    shades = [*_shades(run), var("line")]  # the last, -1, where no kinship is known, or where several share a line

    def shade(name: str) -> int:
        kinship = run.kinship.mean(run.population[name].parents)
        return -1 if math.isnan(kinship) else min(4, int(5 * (kinship - low) / (high - low)))

    paths: dict[tuple[bool, int], tuple[list[float | None], list[float | None]]] = defaultdict(lambda: ([], []))
    for line in laid.lines:
        marked = [name for name in line.children if name in run.line]
        found = {shade(name) for name in marked or line.children}
        x, y = paths[bool(marked), found.pop() if len(found) == 1 else -1]
        for path, values in zip((x, y), _curve(line.start, line.end), strict=True):
            path.extend([*values, None])
    few = len(run.shown) <= FEW
    traces = []
    for (thick, number), (x, y) in sorted(paths.items()):
        trace = Scatter(mode="lines", x=x, y=y, hoverinfo="skip", showlegend=False)
        trace.update(opacity=1 if thick else 0.6 if few else 0.35)
        traces.append(trace.update(line={"width": 4 if thick else 1.4 if few else 1, "color": shades[number]}))
    return traces


def _junctions(run: RunData, laid: Layers) -> list[Scatter]:
    """Return a dot where the lines of merges of the same parents meet, if any do."""
    if not laid.junctions:
        return []
    names = {children: run.population[children[0]].parents for children in laid.junctions}
    texts = [_wrap(f"{len(children)} merges of {' × '.join(parents)}") for children, parents in names.items()]
    x, y = zip(*laid.junctions.values(), strict=True)
    trace = Scatter(mode="markers", x=x, y=y, hovertext=texts, hoverinfo="text", showlegend=False)
    return [trace.update(marker={"size": 7, "color": var("quiet")})]


def _curve(start: Place, end: Place) -> tuple[list[float], list[float]]:
    """Return x and y of points on a cubic curve that leaves and arrives level."""
    t = np.linspace(0, 1, 11)
    x = start[0] + (end[0] - start[0]) * t
    y = start[1] + (end[1] - start[1]) * t * t * (3 - 2 * t)
    return x.round(3).tolist(), y.round(3).tolist()


def _kinship_range(run: RunData) -> tuple[float, float]:
    """Return the kinships that the first and the last shade stand for."""
    values = [value for model in run.population if not math.isnan(value := run.kinship.mean(model.parents))]
    low = min(values, default=0.0)
    high = 1.0 if run.metric.larger_is_closer else max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _shades(run: RunData) -> list[str]:
    """Return the colours of kinship, for rising values of the metric: far is blue, near is orange."""
    return list(map(var, KINSHIP_SHADES if run.metric.larger_is_closer else KINSHIP_SHADES[::-1]))


# --- models ----------------------------------------------------------------------------------------------------------


def _nodes(run: RunData, at: Mapping[str, Place]) -> list[Scatter]:
    few = len(run.shown) <= FEW
    traces = []
    for kind, (symbol, _) in KINDS.items():
        some = [model for model in run.shown if kind_of(model) == kind]
        if not some:
            continue
        x, y = zip(*(at[model.name] for model in some), strict=True)
        named = [few or model.founder or model.name == run.winner.name for model in some]
        text = [escape(_label(model.name)) if shown else "" for model, shown in zip(some, named, strict=True)]
        trace = Scatter(name=kind, mode="markers+text", x=x, y=y, text=text, cliponaxis=False, showlegend=False)
        trace.update(textposition="middle left" if kind == "founders" else "top center" if few else "middle right")
        trace.update(hovertext=[_describe(run, model) for model in some], hoverinfo="text")
        trace.update(textfont={"size": 12, "color": var("ink")})
        colours: dict[str, Any] = {"color": var("grey")}
        if kind != "failed":
            colours = {"color": [model.average for model in some], "coloraxis": "coloraxis"}
        outline = {
            "width": [3 if model.name in run.line else 1 for model in some],
            "color": [var("ink" if model.name in run.line else "quiet") for model in some],
        }
        size = [22 if model.name == run.winner.name else 15 if few else 11 for model in some]
        traces.append(trace.update(marker={"symbol": symbol, "size": size, "opacity": 1, "line": outline, **colours}))
    return traces


def _describe(run: RunData, model: Model) -> str:
    """Return everything known of a model, for the pointer."""
    if model.failure is not None or model.average is None:
        reason = _wrap(model.failure or "not evaluated yet")
        return f"<b>{escape(model.name)}</b><br>parents: {' × '.join(map(escape, model.parents))}<br>{reason}"
    scores = [f"{escape(task)} {score:.1f}" for task, score in list(model.scores.items())[:TASKS]]
    pairs = [", ".join(scores[i : i + 2]) for i in range(0, len(scores), 2)]
    more = [f"and {len(model.scores) - TASKS} more tasks"] if len(model.scores) > TASKS else []
    origin = _recipe(model.recipe["config"]) if model.recipe else f"from {model.source or '?'}"
    return "<br>".join([hover(run, model), _wrap(origin), *pairs, *more])


def _recipe(config: Mapping[str, Any]) -> str:
    parameters = json.dumps(config.get("parameters") or {}, ensure_ascii=False).strip("{}").replace('"', "")
    return f"{config['merge_method']}{', ' + parameters if parameters else ''}"


def _wrap(text: str) -> str:
    return "<br>".join(escape(line) for line in textwrap.wrap(text, 60)[:5])


def _label(name: str) -> str:
    return name if len(name) <= LABEL else name[: LABEL - 1] + "…"


# --- the legend ------------------------------------------------------------------------------------------------------


def _legend(run: RunData) -> list[Scatter]:
    """Return traces without points: for the symbols in the legend, and for the colour bar of the edges."""
    empty = Scatter(mode="markers", x=[None], y=[None], hoverinfo="skip")
    kinds = set(map(kind_of, run.shown))
    traces = [
        Scatter(empty, name=kind, marker={"symbol": symbol, "size": 10, "color": var("quiet")})
        for kind, (symbol, _) in KINDS.items()
        if kind in kinds
    ]
    if any(model.parents for model in run.population):
        traces.append(Scatter(empty, showlegend=False, marker={"color": [0], "coloraxis": "coloraxis2"}))
    return traces


def _colour_axis(title: str, scale: Any, values: Sequence[float], x: float, y: float) -> dict[str, Any]:
    """Return a colour scale from the least to the largest value, with its bar above the drawing."""
    bar = {"orientation": "h", "thickness": 10, "lenmode": "pixels", "len": 150, "xpad": 0, "ypad": 0, "nticks": 5}
    bar |= {"outlinewidth": 0, "tickfont_size": 11}
    bar |= {"x": x, "xanchor": "left", "y": y, "yref": "container", "yanchor": "top"}
    # The empty line below the title keeps it off the bar.
    bar["title"] = {"text": f"{title}<br> ", "side": "top", "font": {"size": 12, "color": var("quiet")}}
    return {"colorscale": scale, "cmin": min(values), "cmax": max(values), "colorbar": bar}
