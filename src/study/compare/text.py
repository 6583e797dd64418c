"""A comparison for a terminal, a spreadsheet and a program."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.text import Text

from src.pages.tables import Table
from src.pages.text import number
from src.population import normalised_average
from src.study.compare.configurations import Configuration, differing, distinguishing, label, mean_of
from src.study.compare.runs import Run
from src.study.compare.verdicts import Comparison, Verdict
from src.tracking.summary import NORMAL, skills_kept

MANY = 40
"""Rows that a terminal is shown; a page and a CSV file have all."""
GROUPED = 10
"""Runs that a terminal is shown one by one where those of the same best model share a row above."""
WORDS = frozenset({"run", "best", "configuration", "stopped", "first", "second", "real", "side", "found by"})
"""Columns of words; all others are figures."""
FOLDED = frozenset({"configuration", "stopped", "first", "second", "found by"})
"""Columns that may take several lines."""
WIDTH = 160
"""Columns of text where the output goes to a file."""
FORMATS = {
    **dict.fromkeys(("known_share", "skills_kept", "share"), ".0%"),
    **dict.fromkeys(("p", "adjusted_p"), ".4f"),
    **dict.fromkeys(("difference", "low", "high", "gain", "gain_else"), "+.2f"),
    "seconds": ".0f",
}
"""Of columns of figures; other fractions have two digits."""
HEADINGS = {
    "share": "merges saved",
    "cost": "cost in points",
    "records": "new bests",
    "in_descent": "winners that descend from one",
    "gain": "mean gain",
    "gain_else": "mean gain of others",
}
"""Of columns whose names need a word more."""


def tables(compared: Comparison) -> dict[str, Table]:
    """Return every table by its title, without what nothing is known of."""
    keys = distinguishing(compared.runs)
    if len({run.settings["seed"] for run in compared.runs}) > 1:
        keys = [*keys, "seed"]
    runs = sorted(compared.runs, key=lambda run: -run.average)
    means = [_means(one) for one in compared.configurations if compared.paired == "seeds"]
    held_out = any(verdict.side == "holdout" for verdict in compared.verdicts)
    found: dict[str, Sequence[Mapping[str, Any]]] = {
        "best models, the best first; ± 95 %, evaluations of the run that needed fewest": [
            {**_winner(group), "configuration": label(group[0], keys)} for group in _shared(compared)
        ],
        "runs, the best first; ± 95 %": [{**_figures(run), "configuration": label(run, keys)} for run in runs],
        "configurations, means over seeds, the best first": sorted(means, key=lambda row: -row["best_average"]),
        f"first minus second, in points, paired over {compared.paired}: 95 % interval{_drawn(compared)}, permutation "
        "test, Holm": [_verdict(verdict, held_out) for verdict in compared.verdicts],
        "stopping on kinship, had the default rule been on": list(map(asdict, compared.stopping)),
        "explorations": list(map(asdict, compared.exploring)),
    }
    return {title: _table(rows) for title, rows in found.items() if rows}


def render(compared: Comparison) -> Group:
    """Return the tables, and remarks, for a terminal."""
    parts: list[RenderableType] = []
    for title, table in tables(compared).items():
        most = GROUPED if table.columns[0] == "run" and _shared(compared) else MANY
        narrow = [column.replace(" ", "\n") for column in table.columns]
        folded = {place for place, column in enumerate(table.columns) if column in FOLDED}
        parts.append(replace(table, columns=narrow, rows=table.rows[:most]).printed(title, folded))
        if len(table.rows) > most:
            parts.append(Text(f"and {len(table.rows) - most} more: --csv or --html has all\n"))
    return Group(*parts, *map(Text, compared.remarks))


def as_csv(compared: Comparison) -> str:
    """Return one line a run: its figures, and every key of the configuration that differs."""
    keys = differing(compared.runs)
    rows = []
    for run in compared.runs:
        settings = {key: run.settings.get(key) for key in keys}
        texts = {key: json.dumps(v) if isinstance(v, list | dict) else v for key, v in settings.items()}
        rows.append({**_figures(run), **texts})
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_json(compared: Comparison) -> str:
    """Return one object: runs, verdicts, stopping, exploring, remarks. What is not known is null."""
    content = {
        "runs": list(map(_figures, compared.runs)),
        "configurations": [{"label": one.label, "averages": one.scores("select")} for one in compared.configurations],
        "winners": [[run.name for run in group] for group in compared.winners],
        "paired": compared.paired,
        "verdicts": compared.verdicts,
        "stopping": compared.stopping,
        "exploring": compared.exploring,
        "remarks": compared.remarks,
    }
    return to_json(content, indent=2, inf_nan_mode="null").decode()


def _figures(run: Run) -> dict[str, Any]:
    state, stderr = run.state, run.state.models[run.best].stderr or 0.0
    return {
        "run": run.name,
        "best_average": run.average,
        "interval": NORMAL * stderr,
        "holdout": run.holdout,
        "skills_kept": kept_of(run),
        "best": run.best,
        "evaluations_to_best": run.reached.evaluations,
        "samples_to_best": run.reached.samples,
        "evaluations": run.evaluations,
        "known_share": state.known["evaluated"] / max(state.asked["evaluated"], 1),
        "seconds": run.seconds,
        "stopped": run.stopped,
    }


def _shared(compared: Comparison) -> list[list[Run]]:
    """Return the best models, where some run found the same one as another."""
    return compared.winners if len(compared.winners) < len(compared.runs) else []


def _winner(group: Sequence[Run]) -> dict[str, Any]:
    figures = _figures(group[0])
    shown = ("best", "best_average", "interval", "holdout", "skills_kept", "evaluations_to_best")
    found_by = ", ".join(run.name for run in group)
    return {"found_by": found_by, "runs": len(group), **{column: figures[column] for column in shown}}


def kept_of(run: Run) -> float | None:
    """Return the mean share that a merged best model keeps of the specialists' scores; None for a founder."""
    found = skills_kept(run.state)[1]
    return normalised_average(found) / 100 if found and run.state.models[run.best].parents else None


def _means(one: Configuration) -> dict[str, Any]:
    rows = [_figures(run) for run in one.runs.values()]
    shown = ("best_average", "holdout", "evaluations_to_best", "evaluations", "seconds")
    known = {column: [row[column] for row in rows if row[column] is not None] for column in shown}
    return {"configuration": one.label, "runs": len(rows)} | {key: mean_of(values) for key, values in known.items()}


def _verdict(verdict: Verdict, held_out: bool) -> dict[str, Any]:
    real = "yes" if verdict.adjusted <= 0.05 else "not shown"
    found = {key: value for key, value in asdict(verdict.found).items() if key not in {"resamples", "error"}}
    row = {"first": verdict.first, "second": verdict.second, **found}
    return {**row, "adjusted_p": verdict.adjusted, "real": real, "side": verdict.side if held_out else ""}


def _drawn(compared: Comparison) -> str:
    """Return how much was drawn for the intervals, in words; empty where nothing was."""
    found = [verdict.found for verdict in compared.verdicts if verdict.found.resamples]
    if not found:
        return ""
    error = max(one.error for one in found)
    return f" ({min(one.resamples for one in found):,} resamples; another seed moves a bound by {error:.2f})"


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    texts = [{column: _text(column, value) for column, value in row.items()} for row in rows]
    columns = [column for column in texts[0] if any(row[column] for row in texts)]
    headings = [HEADINGS.get(column, column.replace("_", " ")) for column in columns]
    words = frozenset(place for place, heading in enumerate(headings) if heading in WORDS)
    return Table(headings, [[row[column] for column in columns] for row in texts], words=words)


def _text(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column == "stopped":
        return str(value).partition(":")[0]
    return number(value, FORMATS.get(column, ".2f")) if isinstance(value, float) else str(value)
