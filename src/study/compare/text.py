"""A comparison for a terminal, a spreadsheet and a program."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from src.pages.text import number
from src.population import normalised_average
from src.study.compare.configurations import Configuration, differing, distinguishing, label, mean_of
from src.study.compare.runs import Run
from src.study.compare.verdicts import Comparison, Verdict
from src.study.compare.winners import Winner
from src.tracking.summary import skills_kept

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
    "known_share": ".0%",
    "skills_kept": ".0%",
    "share": ".0%",
    "seconds": ".0f",
    "p": ".4f",
    "adjusted_p": ".4f",
    "difference": "+.2f",
    "low": "+.2f",
    "high": "+.2f",
    "gain": "+.2f",
    "gain_else": "+.2f",
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


def tables(compared: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return every table as title, columns and rows of text, without what nothing is known of."""
    keys = distinguishing(compared.runs)
    if len({run.settings["seed"] for run in compared.runs}) > 1:
        keys = [*keys, "seed"]
    runs = sorted(compared.runs, key=lambda run: -run.average)
    ranked = sorted(compared.configurations, key=lambda one: -mean_of([*one.scores("select").values()]))
    held_out = any(verdict.side == "holdout" for verdict in compared.verdicts)
    found: dict[str, list[dict[str, Any]]] = {
        "best models, the best first; ± 95 %, evaluations of the run that needed fewest": [
            {**_winner(one), "configuration": label(one.first, keys)} for one in _shared(compared)
        ],
        "runs, the best first; ± 95 %": [{**_figures(run), "configuration": label(run, keys)} for run in runs],
        "configurations, means over seeds, the best first": [
            _means(one) for one in ranked if compared.paired == "seeds"
        ],
        f"first minus second, in points, paired over {compared.paired}: 95 % interval{_drawn(compared)}, permutation "
        "test, Holm": [_verdict(verdict, held_out) for verdict in compared.verdicts],
        "stopping on kinship, had the default rule been on": [asdict(row) for row in compared.stopping],
        "explorations": [asdict(row) for row in compared.exploring],
    }
    return [_table(title, rows) for title, rows in found.items() if rows]


def render(compared: Comparison) -> Group:
    """Return the tables, and remarks, for a terminal."""
    parts: list[Any] = []
    for title, columns, rows in tables(compared):
        shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            shown.add_column(
                column.replace(" ", "\n"), justify="left" if column in WORDS else "right", no_wrap=column not in FOLDED
            )
        most = GROUPED if columns[0] == "run" and _shared(compared) else MANY
        for row in rows[:most]:
            shown.add_row(*map(Text, row))
        parts.append(shown)
        if len(rows) > most:
            parts.append(Text(f"and {len(rows) - most} more: --csv or --html has all\n"))
    return Group(*parts, *(Text(remark) for remark in compared.remarks))


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
        "runs": [_figures(run) for run in compared.runs],
        "configurations": [{"label": one.label, "averages": one.scores("select")} for one in compared.configurations],
        "winners": [[run.name for run in one.runs] for one in compared.winners],
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
        "interval": 1.96 * stderr,
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


def _shared(compared: Comparison) -> list[Winner]:
    """Return the best models, where some run found the same one as another."""
    return compared.winners if len(compared.winners) < len(compared.runs) else []


def _winner(one: Winner) -> dict[str, Any]:
    figures = _figures(one.first)
    shown = {
        key: figures[key]
        for key in ("best", "best_average", "interval", "holdout", "skills_kept", "evaluations_to_best")
    }
    return {"found_by": ", ".join(run.name for run in one.runs), "runs": len(one.runs), **shown}


def kept_of(run: Run) -> float | None:
    """Return the mean share that a merged best model keeps of the specialists' scores; None for a founder."""
    found = skills_kept(run.state)[1]
    return normalised_average(found) / 100 if found and run.state.models[run.best].parents else None


def _means(one: Configuration) -> dict[str, Any]:
    runs = list(one.runs.values())
    return {
        "configuration": one.label,
        "runs": len(runs),
        "best_average": mean_of([*one.scores("select").values()]),
        "holdout": mean_of([*one.scores("holdout").values()]),
        "evaluations_to_best": mean_of([run.reached.evaluations for run in runs]),
        "evaluations": mean_of([run.evaluations for run in runs]),
        "seconds": mean_of([run.seconds for run in runs]),
    }


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


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    texts = [{column: _text(column, value) for column, value in row.items()} for row in rows]
    columns = [column for column in texts[0] if any(row[column] for row in texts)]
    headings = [HEADINGS.get(column, column.replace("_", " ")) for column in columns]
    return title, headings, [[row[column] for column in columns] for row in texts]


def _text(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column == "stopped":
        return str(value).partition(":")[0]
    return number(value, FORMATS.get(column, ".2f")) if isinstance(value, float) else str(value)
