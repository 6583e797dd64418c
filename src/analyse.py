"""Kinship against merge gain, for figures of your own: `python -m src.analyse TABLE.csv [--json]`."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.runtime.command import Parser, status
from src.runtime.errors import UserError, printable_lines

if TYPE_CHECKING:
    from src.statistics import EarlyStop, Relation, Saturation

# scipy is imported where it is first needed: --help and a mistyped path must answer at once.

DETAILS = """
TABLE.csv has a header and a row for each merge:
  generation   1, 2, 3, …
  average      of the offspring, in points
  gain         its average minus the mean of its parents' averages
  …            every other column of numbers is a metric of the parents' kinship; columns of words are left out

Saturation is found by a changepoint on ranks, in |gain| and in the first metric (docs/report.md has the rule).
"""
NEEDED = ("generation", "average", "gain")
LEAST = 3
"""Rows that a correlation needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 after one `error:` line on stderr."""
    parser = Parser(
        prog="python -m src.analyse",
        description="Correlate kinship with merge gain, and find when an evolution saturated.",
        epilog=DETAILS,
    )
    parser.add_argument("table", type=Path, metavar="TABLE.csv", help="the merges, one a row")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--distance", action="append", default=[], metavar="COLUMN", help="a metric of which small is close"
    )
    parser.add_argument("--threshold", type=float, help="what a stop past this kinship would have saved")
    parser.add_argument("--patience", type=int, default=2, help="generations in a row past the threshold (default 2)")
    options = parser.parse_args(arguments)
    if options.patience < 1:
        parser.error(f"--patience {options.patience}: expected 1 or more")
    return status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from src.kinship import METRICS
    from src.statistics import early_stop, relations, saturation, stop_after

    metrics = _read(options.table, options.distance)
    average, gain = metrics.pop("average"), metrics.pop("gain")
    generation = [int(value) for value in metrics.pop("generation")]
    metric, kinship = next(iter(metrics.items()))
    closer = metric not in options.distance and (metric not in METRICS or METRICS[metric].larger_is_closer)
    saturated = saturation(generation, gain, kinship, larger_is_closer=closer)
    if options.threshold is None:
        stop = stop_after(generation, average, saturated.generation)
    else:
        rule: Any = {"threshold": options.threshold, "patience": options.patience, "larger_is_closer": closer}
        stop = early_stop(generation, average, kinship, **rule)
    show = _as_json if options.json else _as_text
    print(show(relations(metrics, gain), metric, saturated, stop))


def _read(path: Path, distances: Sequence[str]) -> dict[str, list[float]]:
    """Read the columns of numbers in a CSV file: those that are `NEEDED`, and one for each metric.

    Raises:
        UserError: no such file, a column that is missing, a cell that is no number (by its line), too few rows; one of
            the `distances` is no column.
    """
    header, rows = _cells(path)
    columns: dict[str, list[float]] = {}
    for position, name in enumerate(header):
        values = {line: _number(cells[position]) for line, cells in rows.items()}
        if name not in NEEDED and all(value is None for value in values.values()):
            continue  # a column of words
        for line, value in values.items():
            if value is None:
                raise UserError(f"{path}, line {line}, column {name}: {rows[line][position]!r} is no number")
            columns.setdefault(name, []).append(value)
    metrics = [name for name in columns if name not in NEEDED]
    if unknown := [name for name in distances if name not in metrics]:
        raise UserError(f"--distance {unknown[0]}: {path} has no such metric; it has {', '.join(metrics) or 'none'}")
    if not metrics:
        raise UserError(f"{path} has no column of kinship; expected one a metric beside {', '.join(NEEDED)}")
    if fractions := [value for value in columns["generation"] if value != int(value)]:
        raise UserError(f"{path}: the generation {fractions[0]} is no whole number")
    return columns


def _as_json(found: Sequence[Relation], metric: str, saturated: Saturation, stop: EarlyStop) -> str:
    """Return one JSON object; what is not defined is null."""
    from pydantic_core import to_json

    targets = {"gain": "gain", "|gain|": "abs_gain"}
    content = {
        "correlations": [
            {"metric": one.metric, "target": targets[one.target], **asdict(one.found), "adjusted_p": one.adjusted}
            for one in found
        ],
        "saturation_generation": saturated.generation,
        "saturation": {"metric": metric, **asdict(saturated)},
        "early_stop": {**asdict(stop), "cost": stop.cost},
    }
    return to_json(content, indent=2, inf_nan_mode="null").decode()


def _as_text(found: Sequence[Relation], metric: str, saturated: Saturation, stop: EarlyStop) -> str:
    """Return a table of correlations, and the rest in words."""
    width = max(len("metric"), *(len(one.metric) for one in found))
    row = f"{{:>{width}}}  {{:>6}}  {{:>8}}  {{:>6}}  {{:>14}}  {{:>5}}  {{:>10}}  {{:>2}}"
    lines = [row.format("metric", "with", "method", "r", "95 % interval", "p", "adjusted p", "n")]
    for one in found:
        r, interval = one.found.r, f"{one.found.low:+.2f} to {one.found.high:+.2f}"
        figures = f"{r:+.3f}", interval, f"{one.found.p:.3f}", f"{one.adjusted:.3f}"
        lines.append(row.format(one.metric, one.target, one.found.method, *figures, one.found.n))
    resamples = min(one.found.resamples for one in found)
    error = max((one.found.error for one in found if not math.isnan(one.found.error)), default=0.0)
    lines += [
        f"intervals: bootstrap over merges, {resamples:,} resamples, so that another seed would move a bound by "
        f"{error:.3f} at most; adjusted p: Holm, over all {len(found)}",
        "",
        _saturation_in_words(metric, saturated),
    ]
    if stop.generation is not None:
        lines.append(
            f"a stop after generation {stop.generation} would have saved {stop.saved} of {stop.merges} merges "
            f"({stop.share:.0%}) and cost {stop.cost:.2f} points of the best average ({stop.best:.2f})"
        )
    return printable_lines("\n".join(lines))


def _saturation_in_words(metric: str, found: Saturation) -> str:
    if found.generation is None:
        return f"no saturation: |gain| and {metric} show no change that chance would not (p {found.p:.3f})"
    return (
        f"saturated from generation {found.generation} on (p {found.p:.4f}): "
        f"mean |gain| {found.gain_before:.2f} before, {found.gain_after:.2f} after; "
        f"mean {metric} {found.kinship_before:.3f} before, {found.kinship_after:.3f} after"
    )


def _cells(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the header, and the other rows by their line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if any(map(str.strip, line))]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table of merges as CSV") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error})") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    if missing := [name for name in NEEDED if name not in header]:
        found = ", ".join(header) or "nothing"
        raise UserError(f"{path} has no column {missing[0]}; found {found}; expected {', '.join(NEEDED)} and metrics")
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0] or 'without a name'} twice; leave one out")
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: {len(line)} cells, expected {len(header)}")
    if len(lines) - 1 < LEAST:
        raise UserError(f"{path} has too few rows: {len(lines) - 1} merges; expected {LEAST} or more")
    return header, dict(lines[1:])


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    sys.exit(main())
