"""A comparison for a terminal, a spreadsheet and a program."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from src.study.compare.configurations import differing, label, mean_of, telling
from src.study.compare.runs import Run
from src.study.compare.verdicts import Comparison

MANY = 40
"""Runs that a terminal is shown; a page and a CSV file have all."""

WORDS = frozenset({"run", "best", "configuration", "stopped", "first", "second", "real", "side"})
"""Columns of words; all others are figures."""
WIDTH = 160
"""Columns of text where the output goes to a file."""


def tables(compared: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return every table as title, columns and rows of text."""
    found = [_runs(compared)]
    if compared.paired == "seeds":
        found.append(_configurations(compared))
    found += [_verdicts(compared), _stopping(compared), _exploring(compared)]
    return [table for table in found if table[2]]


def render(compared: Comparison) -> Group:
    """Return the tables, and remarks, for a terminal."""
    parts: list[Any] = []
    for title, columns, rows in tables(compared):
        shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            folds = column in {"configuration", "stopped", "first", "second"}
            shown.add_column(column, justify="left" if column in WORDS else "right", no_wrap=not folds)
        for row in rows[:MANY]:
            shown.add_row(*map(Text, row))
        parts.append(shown)
        if len(rows) > MANY:
            parts.append(Text(f"and {len(rows) - MANY} more: --csv or --html has all\n"))
    return Group(*parts, *(Text(remark) for remark in compared.remarks))


def as_csv(compared: Comparison) -> str:
    """Return one line a run: its figures, and every key of the configuration that differs."""
    keys = differing(compared.runs)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", *_FIGURES, "stopped", *keys])
    for run in compared.runs:
        cells = [run.settings.get(key) for key in keys]
        values = (json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells)
        writer.writerow([run.name, *_figures(run).values(), run.stopped, *values])
    return file.getvalue()


def as_json(compared: Comparison) -> str:
    """Return one object: runs, verdicts, stopping, exploring, remarks. What is not known is null."""
    plain = {
        "runs": [{"run": run.name, **_figures(run), "stopped": run.stopped} for run in compared.runs],
        "configurations": [{"label": one.label, "averages": one.averages} for one in compared.configurations],
        "paired": compared.paired,
        "verdicts": [asdict(verdict) for verdict in compared.verdicts],
        "stopping": [asdict(row) for row in compared.stopping],
        "exploring": [asdict(row) for row in compared.exploring],
        "remarks": compared.remarks,
    }
    return json.dumps(_finite(plain), indent=2)


_FIGURES = (
    "best_average",
    "interval",
    "holdout",
    "skills_kept",
    "best",
    "evaluations_to_best",
    "samples_to_best",
    "evaluations",
    "known_share",
    "seconds",
)


def _figures(run: Run) -> dict[str, Any]:
    reached = run.reached
    values = (
        run.average,
        1.96 * run.stderr,
        run.holdout,
        run.kept,
        run.best,
        reached.evaluations,
        reached.samples,
        run.evaluations,
        run.known,
        run.seconds,
    )
    return dict(zip(_FIGURES, values, strict=True))


def _runs(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    columns = ["run", "best average", "holdout", "kept", "best", "after", "of", "known", "samples", "seconds"]
    keys = telling(compared.runs)
    if len({run.settings["seed"] for run in compared.runs}) > 1:
        keys = [*keys, "seed"]
    rows = []
    for run in sorted(compared.runs, key=lambda run: -run.average):
        figures = [
            f"{run.average:.2f} ± {1.96 * run.stderr:.2f}",
            "" if run.holdout is None else f"{run.holdout:.2f}",
            "" if run.kept is None else f"{run.kept:.0f}%",
            run.best,
            str(run.reached.evaluations),
            str(run.evaluations),
            f"{run.known:.0%}",
            str(run.reached.samples),
            f"{run.seconds:.0f}",
        ]
        rows.append([run.name, *figures, label(run, keys), run.stopped.partition(":")[0]])
    title = "runs, the best first; ± 95 %; the best was found after so many evaluations and samples, of so many in all"
    return title, *_without_empty([*columns, "configuration", "stopped"], rows)


def _configurations(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    columns = ["configuration", "runs", "best average", "holdout", "reached after", "evaluations", "seconds"]
    rows = []
    for one in sorted(compared.configurations, key=lambda one: -mean_of([*one.averages.values()])):
        runs = list(one.runs.values())
        held = mean_of([*one.holdouts.values()])
        rows.append(
            [
                one.label,
                str(len(runs)),
                f"{mean_of([*one.averages.values()]):.2f}",
                "" if math.isnan(held) else f"{held:.2f}",
                f"{mean_of([run.reached.evaluations for run in runs]):.1f}",
                f"{mean_of([run.evaluations for run in runs]):.1f}",
                f"{mean_of([run.seconds for run in runs]):.0f}",
            ]
        )
    return "configurations, means over seeds, the best first", *_without_empty(columns, rows)


def _verdicts(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    columns = ["first", "second", "difference", "low", "high", "n", "p", "adjusted p", "real"]
    held_out = any(verdict.side == "holdout" for verdict in compared.verdicts)
    rows = []
    for verdict in compared.verdicts:
        found = verdict.found
        points = [f"{value:+.2f}" for value in (found.difference, found.low, found.high)]
        real = "yes" if verdict.adjusted <= 0.05 else "not shown"
        row = [verdict.first, verdict.second, *points, str(found.n), f"{found.p:.4f}", f"{verdict.adjusted:.4f}", real]
        rows.append([*row, verdict.side] if held_out else row)
    title = f"first minus second, in points, paired over {compared.paired}: 95 % interval, permutation test, Holm"
    return title, [*columns, "side"] if held_out else columns, rows


def _stopping(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    columns = ["configuration", "runs", "ended early", "merges saved", "cost in points", "dearest"]
    rows = [
        [s.configuration, str(s.runs), str(s.stopped), f"{s.share:.0%}", f"{s.cost:.2f}", f"{s.dearest:.2f}"]
        for s in compared.stopping
    ]
    return "had these runs stopped on kinship, as they would by default", columns, rows


def _exploring(compared: Comparison) -> tuple[str, list[str], list[list[str]]]:
    columns = [
        "configuration",
        "runs",
        "explorations",
        "new bests",
        "winners that descend from one",
        "gain",
        "gain else",
    ]
    rows = [
        [
            row.configuration,
            *(str(value) for value in (row.runs, row.explorations, row.records, row.in_descent)),
            f"{row.gain:+.2f}",
            f"{row.gain_else:+.2f}",
        ]
        for row in compared.exploring
    ]
    return "what exploring came to", columns, rows


def _without_empty(columns: Sequence[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the table without the columns that nothing is known of."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _finite(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {str(key): _finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
