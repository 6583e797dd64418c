"""A comparison as one HTML page that needs nothing else: best average against evaluations, and the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.pages.document import Drawing, Section, Table, document
from src.pages.figures import Figure, axis, escape, figure, rounded, var
from src.pages.text import plural
from src.runtime import files
from src.study.compare.configurations import Configuration, band
from src.study.compare.text import WORDS, tables
from src.study.compare.verdicts import Comparison

HUES = ("blue", "orange", "green", "purple", "yellow", "sky", "grey", "ink")
DASHES = ("solid", "dash", "dot", "dashdot")
"""For the second round of hues, and so on."""


def write(compared: Comparison, path: Path) -> Path:
    """Write the page, beside its place first; where it lies."""
    files.write_text(path, page(compared))
    return path


def page(compared: Comparison) -> str:
    """Return the page's HTML."""
    title = f"{plural(len(compared.runs), 'run')}, {plural(len(compared.configurations), 'configuration')}"
    runs, *others = map(_tabled, tables(compared))
    return document(f"kinmerge: {title}", [_growth(compared), *others, runs], heading=title, words=compared.remarks)


def _growth(compared: Comparison) -> Section:
    """Return one curve a configuration; with families in the way, also counted from each family's best founder."""
    drawn = [Drawing("curves", "best average", curves(compared.configurations))]
    words = ["The mean over a configuration's runs, and where there are several its 95 % interval as a band."]
    if compared.paired == "seeds":
        words.append("Families differ by far more than configurations: the first figure takes that difference out.")
        gained = curves(compared.configurations, above_founder=True)
        drawn.insert(0, Drawing("curves-gained", "above each family's best founder", gained))
    return Section("curves", "Best average against evaluations", words, [drawn], wide=True)


def curves(found: Sequence[Configuration], *, above_founder: bool = False) -> Figure:
    """Return one curve a configuration: the mean over its seeds, with the 95 % interval of the mean as a band.

    `above_founder` counts from the best founder, which takes the difference between families out of the band.
    """
    data: list[dict[str, Any]] = []
    for number, one in enumerate(found):
        line = band(list(one.runs.values()), above_founder=above_founder)
        shared = {"type": "scatter", "name": escape(one.label), "legendgroup": str(number)}
        hue, dash = var(HUES[number % len(HUES)]), DASHES[number // len(HUES) % len(DASHES)]
        if not any(map(math.isnan, line.low)):
            around = {
                "x": [*line.evaluations, *line.evaluations[::-1]],
                "y": list(map(rounded, [*line.high, *line.low[::-1]])),
            }
            quiet = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            data.append({**shared, **around, **quiet, "fill": "toself", "fillcolor": hue, "opacity": 0.15})
        points = {"x": list(line.evaluations), "y": list(map(rounded, line.mean))}
        strokes = {"mode": "lines+markers", "line": {"color": hue, "dash": dash, "shape": "hv"}, "marker": {"size": 4}}
        data.append({**shared, **points, **strokes})
    height = axis("points above the best founder" if above_founder else "best average, points")
    return figure(data, 380 + 12 * len(found), xaxis=axis("evaluations, the founders' included"), yaxis=height)


def _tabled(table: tuple[str, list[str], list[list[str]]]) -> Section:
    title, columns, rows = table
    heading, _, more = title.partition(", ")
    words = frozenset(i for i, column in enumerate(columns) if column in WORDS)
    said = [f"{more[0].upper()}{more[1:]}."] if more else []
    shown = Table(columns, rows, words=words)
    return Section(heading.replace(" ", "-"), f"{heading[0].upper()}{heading[1:]}", said, tables=[shown])
