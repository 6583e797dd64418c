"""The table that the paper prints (arXiv 2410.12613, Table 2): who was merged, how good it is, how related."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from src.population import KinshipTable, Model, Population

COLUMNS = ("model", "parents", "average", "stderr", "gain", "kinship")

Row = tuple[str, str, float | None, float | None, float | None, float | None]


def rows(population: Population, kinship: KinshipTable, models: Iterable[Model] | None = None) -> list[Row]:
    """One row a model, or each of some `models`, oldest first.

    None where there is no such figure (a founder's gain, a failure's average).
    """
    return [
        (
            model.name,
            " × ".join(model.parents),
            model.average,
            model.stderr,
            population.gain(model.name),
            _known(kinship.mean(model.parents)),
        )
        for model in (population if models is None else models)
    ]


def render(population: Population, kinship: KinshipTable, k: int | None) -> Table:
    """The table for a terminal: the k best marked, the best one bold, a rule between generations."""
    marked = [model.name for model in population.best(k or 1)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "parents"):
        table.add_column(column)
    for column in ("average", "gain", kinship.metric):
        table.add_column(column, justify="right")
    generation = 0
    for model, row in zip(population, rows(population, kinship), strict=True):
        if model.generation != generation:
            generation = model.generation
            table.add_section()
        style = "bold" if marked[:1] == [model.name] else ""
        name = Text(model.name + (" *" if model.name in marked else ""), style=style)
        table.add_row(
            name, row[1], _average(model, row[3]), _number(row[4], "+.2f"), _number(row[5], ".3f"), style=style
        )
    return table


def _average(model: Model, stderr: float | None) -> str:
    if model.failure is not None:
        return "failed"
    return f"{model.average:.2f} ± {stderr or 0:.2f}" if model.average is not None else ""


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
