"""A comparison for a terminal, a spreadsheet and a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from src.study.compare.configurations import Configuration, differing, distinguishing, label, mean_of
from src.study.compare.runs import Run
from src.study.compare.verdicts import Comparison, Verdict

MANY = 40
"""Runs that a terminal is shown; a page and a CSV file have all."""
WORDS = frozenset({"run", "best", "configuration", "stopped", "first", "second", "real", "side"})
"""Columns of words; all others are figures."""
FOLDED = frozenset({"configuration", "stopped", "first", "second"})
"""Columns that may take several lines."""
WIDTH = 160
"""Columns of text where the output goes to a file."""


def tables(compared: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return every table as title, columns and rows of text, without what nothing is known of."""
    keys = distinguishing(compared.runs)
    if len({run.settings["seed"] for run in compared.runs}) > 1:
        keys = [*keys, "seed"]
    ranked = sorted(compared.configurations, key=lambda one: -mean_of([*one.averages.values()]))
    held_out = any(verdict.side == "holdout" for verdict in compared.verdicts)
    found = {
        "runs, the best first; ± 95 %; the best was found after so many evaluations and samples, of so many in all": [
            _run(run, keys) for run in sorted(compared.runs, key=lambda run: -run.average)
        ],
        "configurations, means over seeds, the best first": [
            _configuration(one) for one in ranked if compared.paired == "seeds"
        ],
        f"first minus second, in points, paired over {compared.paired}: 95 % interval, permutation test, Holm": [
            _verdict(verdict, held_out) for verdict in compared.verdicts
        ],
        "stopping on kinship, had the default rule been on": [
            {
                "configuration": row.configuration,
                "runs": str(row.runs),
                "ended early": str(row.stopped),
                "merges saved": f"{row.share:.0%}",
                "cost in points": f"{row.cost:.2f}",
                "max cost": f"{row.max_cost:.2f}",
            }
            for row in compared.stopping
        ],
        "explorations": [
            {
                "configuration": row.configuration,
                "runs": str(row.runs),
                "explorations": str(row.explorations),
                "new bests": str(row.records),
                "winners that descend from one": str(row.in_descent),
                "mean gain": f"{row.gain:+.2f}",
                "mean gain of other merges": f"{row.gain_else:+.2f}",
            }
            for row in compared.exploring
        ],
    }
    return [_table(title, rows) for title, rows in found.items() if rows]


def render(compared: Comparison) -> Group:
    """Return the tables, and remarks, for a terminal."""
    parts: list[Any] = []
    for title, columns, rows in tables(compared):
        shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            shown.add_column(column, justify="left" if column in WORDS else "right", no_wrap=column not in FOLDED)
        for row in rows[:MANY]:
            shown.add_row(*map(Text, row))
        parts.append(shown)
        if len(rows) > MANY:
            parts.append(Text(f"and {len(rows) - MANY} more: --csv or --html has all\n"))
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
        "configurations": [{"label": one.label, "averages": one.averages} for one in compared.configurations],
        "paired": compared.paired,
        "verdicts": compared.verdicts,
        "stopping": compared.stopping,
        "exploring": compared.exploring,
        "remarks": compared.remarks,
    }
    return to_json(content, indent=2, inf_nan_mode="null").decode()


def _figures(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "best_average": run.average,
        "interval": 1.96 * run.stderr,
        "holdout": run.holdout,
        "best": run.best,
        "evaluations_to_best": run.reached.evaluations,
        "samples_to_best": run.reached.samples,
        "evaluations": run.evaluations,
        "known_share": run.known,
        "seconds": run.seconds,
        "stopped": run.stopped,
    }


def _run(run: Run, keys: Sequence[str]) -> dict[str, str]:
    return {
        "run": run.name,
        "best average": f"{run.average:.2f} ± {1.96 * run.stderr:.2f}",
        "holdout": "" if run.holdout is None else f"{run.holdout:.2f}",
        "best": run.best,
        "after": str(run.reached.evaluations),
        "of": str(run.evaluations),
        "known": f"{run.known:.0%}",
        "samples": str(run.reached.samples),
        "seconds": f"{run.seconds:.0f}",
        "configuration": label(run, keys),
        "stopped": run.stopped.partition(":")[0],
    }


def _configuration(one: Configuration) -> dict[str, str]:
    runs = list(one.runs.values())
    return {
        "configuration": one.label,
        "runs": str(len(runs)),
        "best average": f"{mean_of([*one.averages.values()]):.2f}",
        "holdout": f"{mean_of([*one.holdouts.values()]):.2f}" if one.holdouts else "",
        "reached after": f"{mean_of([run.reached.evaluations for run in runs]):.1f}",
        "evaluations": f"{mean_of([run.evaluations for run in runs]):.1f}",
        "seconds": f"{mean_of([run.seconds for run in runs]):.0f}",
    }


def _verdict(verdict: Verdict, held_out: bool) -> dict[str, str]:
    found = verdict.found
    return {
        "first": verdict.first,
        "second": verdict.second,
        **{name: f"{getattr(found, name):+.2f}" for name in ("difference", "low", "high")},
        "n": str(found.n),
        "p": f"{found.p:.4f}",
        "adjusted p": f"{verdict.adjusted:.4f}",
        "real": "yes" if verdict.adjusted <= 0.05 else "not shown",
        "side": verdict.side if held_out else "",
    }


def _table(title: str, rows: Sequence[dict[str, str]]) -> tuple[str, list[str], list[list[str]]]:
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    return title, columns, [[row[column] for column in columns] for row in rows]
