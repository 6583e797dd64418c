"""Kinship in words: a table for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.kinship.grams import Grams
from src.kinship.metrics import Metric, delta_norms, mean_kinship
from src.runtime.errors import printable

Part = tuple[str, Grams]


def parts(grams: Grams, by: str | None) -> list[Part]:
    """Return the grams of every layer or kind, by its name; nothing without `by`."""
    if by == "layer":
        return [(str(layer), grams.select(layer=layer)) for layer in grams.layers()]
    if by == "kind":
        return [(kind, grams.select(kind=kind)) for kind in grams.kinds()]
    return []


def as_table(grams: Grams, metric: Metric, base: str, by: str | None = None) -> str:
    """Format the matrix, mean over pairs and delta norms; for each part the mean and, of few models, every pair."""
    matrix = metric.of(grams)
    names = list(map(printable, grams.names))
    norms = delta_norms(grams)
    rows = [["", *names, "|delta|"]]
    for shown, name, row in zip(names, grams.names, matrix, strict=True):
        rows.append([shown, *(_number(x) for x in row), _number(norms[name])])
    sense = "larger is closer" if metric.larger_is_closer else "smaller is closer"
    text = f"{metric.name} of the deltas against {printable(base)} ({sense})\n\n{_aligned(rows)}\n"
    text += f"\nmean over pairs: {_number(mean_kinship(matrix))}"
    if by:
        pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
        pairs = pairs if len(pairs) <= 6 else []
        rows = [[by, "mean", *(f"{names[a]} × {names[b]}" for a, b in pairs)]]
        for part, some in parts(grams, by):
            own = metric.of(some)
            rows.append([part, _number(mean_kinship(own)), *(_number(own[a, b]) for a, b in pairs)])
        text += f"\n\n{_aligned(rows)}"
    return text


def as_csv(grams: Grams, metric: Metric, by: str | None = None) -> str:
    """Format a header and a row for every model; with `by`, these for every part, whose name comes first."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*([by] if by else []), "model", *map(printable, grams.names)])
    for part, some in parts(grams, by) or [("", grams)]:
        for name, row in zip(grams.names, metric.of(some), strict=True):
            cells = ["" if math.isnan(x) else repr(float(x)) for x in row]
            writer.writerow([*([part] if by else []), printable(name), *cells])
    return stream.getvalue().rstrip("\n")


def as_json(grams: Grams, metric: Metric, base: str, sources: Mapping[str, str], by: str | None = None) -> str:
    """Format one object; what is undefined (the kinship of a part that a model left unchanged) is null."""
    matrix = metric.of(grams)
    content: dict[str, Any] = {
        "base": base,
        "metric": metric.name,
        "larger_is_closer": metric.larger_is_closer,
        "models": list(grams.names),
        "sources": dict(sources),
        "matrix": _plain(matrix),
        "mean": _plain(mean_kinship(matrix)),
        "delta_norms": {name: _plain(norm) for name, norm in delta_norms(grams).items()},
        "tensors": len(grams.tensors),
        "parameters": int(grams.count.sum()),
    }
    if by:
        content["by"] = by
        content["parts"] = {
            part: {"matrix": _plain(own), "mean": _plain(mean_kinship(own)), "parameters": int(some.count.sum())}
            for part, some in parts(grams, by)
            for own in [metric.of(some)]
        }
    return json.dumps(content, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """Convert numbers and arrays to what JSON has."""
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value]
    return None if math.isnan(value) else float(value)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
