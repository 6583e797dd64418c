"""A comparison as one HTML page that needs nothing else: tables, and best average against evaluations."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from src.compare.configurations import Configuration, band
from src.compare.text import tables
from src.compare.verdicts import Comparison

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
body { color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #888 } p { color: #555 }
"""


def write(compared: Comparison, path: Path) -> None:
    """Write the page, beside its place first."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(page(compared), encoding="utf-8")
    beside.replace(path)


def page(compared: Comparison) -> str:
    """The page: Plotly is inside, nothing is loaded from anywhere."""
    title = f"{len(compared.runs)} runs, {len(compared.configurations)} configurations"
    drawn = "<h2>Best average against evaluations</h2>" + _drawn(curves(compared.configurations), "inline")
    if compared.paired == "seeds":  # families differ by far more than configurations
        drawn = "<h2>Best average above each family's best founder</h2>"
        drawn += _drawn(curves(compared.configurations, gained=True), "inline")
        drawn += "<h2>Best average</h2>" + _drawn(curves(compared.configurations), False)
    parts = [_table(*table) for table in tables(compared)]
    parts += [f"<p>{html.escape(remark)}</p>" for remark in compared.remarks]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>kinmerge: {title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"{drawn}{''.join(parts)}</body></html>\n"
    )


def _drawn(figure: go.Figure, plotly_js: str | bool) -> str:
    return str(plotly.io.to_html(figure, full_html=False, include_plotlyjs=plotly_js))


def curves(found: Sequence[Configuration], *, gained: bool = False) -> go.Figure:
    """One curve a configuration: the mean over its seeds, with the 95 % interval of the mean as a band.

    `gained` counts from the best founder, which takes the difference between families out of the band.
    """
    figure = go.Figure()
    for number, one in enumerate(found):
        line, colour = band(list(one.runs.values()), gained=gained), COLOURS[number % len(COLOURS)]
        if not any(map(math.isnan, line.low)):
            around = {"x": [*line.evaluations, *line.evaluations[::-1]], "y": [*line.high, *line.low[::-1]]}
            fill = f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:], 16)},0.15)"
            figure.add_scatter(
                **around, fill="toself", fillcolor=fill, line={"width": 0}, hoverinfo="skip", showlegend=False,
                legendgroup=one.label, mode="lines",
            )  # fmt: skip
        figure.add_scatter(
            x=line.evaluations, y=line.mean, name=one.label, legendgroup=one.label, mode="lines+markers",
            line={"color": colour, "shape": "hv"}, marker={"size": 4},
        )  # fmt: skip
    figure.update_layout(
        xaxis_title="evaluations, the founders' included",
        yaxis_title="points above the best founder" if gained else "best average, points",
        template="plotly_white",
        height=520,
        legend={"orientation": "h", "y": -0.2},
        margin={"l": 60, "r": 20, "t": 20, "b": 40},
    )
    return figure


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<h2>{html.escape(title[0].upper() + title[1:])}</h2>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
