"""The table that the paper prints (arXiv 2410.12613, Table 2): who was merged, how good it is, how related."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from src.pages.text import number
from src.population import KinshipTable, Model, Population

COLUMNS = ("model", "parents", "average", "stderr", "gain", "kinship")

Row = tuple[str, str, float | None, float | None, float | None, float | None]


def rows(population: Population, kinship: KinshipTable, models: Iterable[Model] | None = None) -> list[Row]:
    """Return one row for each model, or for each of some `models`, oldest first.

    None stands where there is no such figure (a founder's gain, a failure's average).
    """
    found: list[Row] = []
    for model in population if models is None else models:
        between = kinship.mean(model.parents)
        known = None if math.isnan(between) else between
        parents, gain = " × ".join(model.parents), population.gain(model.name)
        found.append((model.name, parents, model.average, model.stderr, gain, known))
    return found


def predictions(population: Population) -> list[str]:
    """Return what was predicted of the youngest generation and what was found, a line a model, and what is expected.

    [] where nothing is predicted: then the table is worth its room.
    """
    if population.expected_gain is None or not population.generation:
        return []
    found = []
    for model in population.of_generation(population.generation):
        promised, score = model.predicted, f"{population.found(model):.2f} found"
        told = f"{promised.value:.2f} predicted ({promised.low:.2f} to {promised.high:.2f}), " if promised else ""
        found.append(f"{model.name}: {told}{score}")
    best = population.best(1)[0]
    more = f"{population.expected_gain:.2f} more may be gained"
    return [*found, f"best: {best.name}, taken to be worth {population.value(best):.2f}; {more}"]


def cells(model: Model, row: Row) -> list[str]:
    """Return a model's row as texts."""
    name, parents, average, error, gain, kinship = row
    shown = "failed" if model.failure is not None else number(average, ".2f")
    return [name, parents, shown, number(error, ".2f"), number(gain, "+.2f"), number(kinship, ".3f")]


def render(population: Population, kinship: KinshipTable, k: int | None) -> Table:
    """Return the table for a terminal: the k best marked, the best one bold, a rule between generations."""
    best = [model.name for model in population.best(k or 1)]
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
        style = "bold" if best[:1] == [model.name] else ""
        name, parents, average, error, *others = cells(model, row)
        marked = Text(f"{name} *" if name in best else name, style=style)
        table.add_row(marked, parents, f"{average} ± {error}" if error else average, *others, style=style)
    return table
