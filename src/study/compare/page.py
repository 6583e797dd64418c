"""A comparison as one HTML page that needs nothing else: best average against evaluations, and the tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from plotly.graph_objects import Scatter

from src.pages.document import Drawing, Section, Tile, document
from src.pages.figures import Figure, axis, escape, figure, var
from src.pages.tables import Table
from src.pages.text import duration, plural
from src.runtime import files
from src.study.compare import parameters
from src.study.compare.configurations import Band, Configuration, band
from src.study.compare.text import kept_of, tables
from src.study.compare.verdicts import Comparison

HUES = ("blue", "orange", "green", "purple", "yellow", "sky", "ink")
"""Of the lines that are named; more could not be told apart."""
DASHES = ("solid", "dash", "dot", "dashdot")
LETTERS = 44
"""In a line of the legend: a phone has no room for more."""


def write(compared: Comparison, path: Path) -> None:
    """Write the page, beside its place first."""
    title = f"{plural(len(compared.runs), 'run')}, {plural(len(compared.configurations), 'configuration')}"
    found = {section.name: section for section in map(_tabled, *zip(*tables(compared).items(), strict=True))}
    runs = found.pop("runs")
    first = [found.pop("best-models")] if "best-models" in found else []
    varied = parameters.parameters(compared.configurations)
    drawn = [parameters.section(compared.configurations, varied)] if varied else []
    sections = [*first, _growth(compared), *drawn, *found.values(), runs]
    words, tiles = [_lead(compared), *compared.remarks], _tiles(compared)
    files.write_text(path, document(f"kinmerge: {title}", sections, heading=title, words=words, tiles=tiles))


def _lead(compared: Comparison) -> str:
    """Return which model is best, and who found it."""
    first, *others = compared.winners[0]
    too = f" {plural(len(others), 'other run')} found it too." if others else ""
    return (
        f"The best model of all is {first.best} of the run {first.name}: {first.average:.2f} on what steered its "
        f"search, {first.average - first.founder:+.2f} on its best founder.{too} It is the best of "
        f"{len(compared.runs)} runs' best models, so this figure is too high on average: quote its holdout."
    )


def _tiles(compared: Comparison) -> list[Tile]:
    group, runs = compared.winners[0], compared.runs
    first, reached = group[0], group[0].reached
    asked, known = (sum(getattr(run.state, kind)["evaluated"] for run in runs) for kind in ("asked", "known"))
    spent = duration(sum(run.seconds for run in runs))
    found_by = f"of {first.name}; found by {len(group)} of {plural(len(runs), 'run')}"
    shown = [Tile("best model", first.best, found_by)]
    if first.holdout is not None:
        shown.append(Tile("on the holdout", f"{first.holdout:.2f}", "the figure to quote"))
    if (kept := kept_of(first)) is not None:
        shown.append(Tile("skills kept", f"{kept:.0%}", "of the specialists' scores, mean over tasks"))
    shown.append(Tile("its evaluations", str(reached.evaluations), f"until it was found; {reached.samples:,} samples"))
    shown.append(Tile("evaluations in all", str(asked), f"{known} of them known from other runs; {spent} of work"))
    return shown


def _growth(compared: Comparison) -> Section:
    """Return one curve a configuration; with families in the way, also counted from each family's best founder."""
    drawn = [Drawing("curves", "best average", curves(compared.configurations))]
    words = ["The mean over a configuration's runs, and where there are several its 95 % interval as a band."]
    if len(compared.configurations) > len(HUES):
        words.append(
            f"Configurations of the same course share a line. The best {len(HUES)} lines are named; point at a grey "
            "one to see what it is."
        )
    if compared.paired == "seeds":
        words.append("Families differ by far more than configurations: the first figure takes that difference out.")
        gained = curves(compared.configurations, above_founder=True)
        drawn.insert(0, Drawing("curves-gained", "above each family's best founder", gained))
    return Section("curves", "Best average against evaluations", words, [drawn], wide=True)


def curves(found: Sequence[Configuration], *, above_founder: bool = False) -> Figure:
    """Return one curve a configuration: the mean over its seeds, with the 95 % interval of the mean as a band.

    Those that agree wherever the best average changes share a curve, the longest; the best ones are named.
    `above_founder` counts from the best founder, which takes the difference between families out of the band.
    """
    groups: dict[tuple[tuple[int, float], ...], list[tuple[Configuration, Band]]] = {}
    for one in found:
        line = band(list(one.runs.values()), above_founder=above_founder)
        groups.setdefault(_steps(line), []).append((one, line))
    ranked = sorted(groups.values(), key=lambda group: -group[0][1].mean[-1])
    data: list[Scatter] = []
    for number, group in reversed([*enumerate(ranked)]):  # the best are drawn last, on top
        line = max((line for _, line in group), key=lambda line: line.evaluations[-1])
        data += _curve([one.label for one, _ in group], line, number, grey=number >= len(HUES))
    height = axis("points above the best founder" if above_founder else "best average, points")
    tall = 400 + 30 * min(len(ranked), len(HUES))
    across = axis("evaluations, the founders' included")
    return figure(data, tall, xaxis=across, yaxis=height, legend_traceorder="reversed")


def _steps(line: Band) -> tuple[tuple[int, float], ...]:
    """Return where the mean changes, and to what."""
    points = zip(line.evaluations, line.mean, line.low, strict=True)
    found: list[tuple[int, float]] = []
    for evaluations, mean, low in points:
        if not found or round(mean, 6) != found[-1][1] or not math.isnan(low):
            found.append((evaluations, round(mean, 6)))
    return tuple(found)


def _curve(labels: Sequence[str], line: Band, number: int, *, grey: bool) -> list[Scatter]:
    """Return a line that these configurations share, and its band."""
    more = f" and {len(labels) - 1} more alike" if len(labels) > 1 else ""
    name = "the others" if grey else "<br>".join(map(escape, textwrap.wrap(labels[0] + more, LETTERS)))
    hue, dash = var("grey" if grey else HUES[number]), "solid" if grey else DASHES[number % len(DASHES)]
    shared = Scatter(name=name, legendgroup="grey" if grey else str(number), mode="lines")
    told = "<br>".join(map(escape, labels[:8])) + (f"<br>and {len(labels) - 8} more" if len(labels) > 8 else "")
    drawn = Scatter(shared, x=line.evaluations, y=line.mean, showlegend=not grey or number == len(HUES), text=told)
    drawn.update(line={"color": hue, "dash": dash, "shape": "hv", "width": 1.5 if grey else 2.5})
    drawn.update(hovertemplate="%{text}<br>%{y:.2f} after %{x} evaluations<extra></extra>")
    if grey or any(map(math.isnan, line.low)):
        return [drawn]
    there_and_back = [*line.evaluations, *line.evaluations[::-1]]
    band = Scatter(shared, x=there_and_back, y=[*line.high, *line.low[::-1]], showlegend=False, hoverinfo="skip")
    return [band.update(line={"width": 0}, fill="toself", fillcolor=hue, opacity=0.15), drawn]


def _tabled(title: str, table: Table) -> Section:
    heading, _, more = title.partition(", ")
    said = [f"{more[0].upper()}{more[1:]}."] if more else []
    return Section(heading.replace(" ", "-"), f"{heading[0].upper()}{heading[1:]}", said, tables=[table])
