"""Kinship against merge gain, for figures of your own: `python -m src.analyse TABLE.csv [--json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.runtime.command import Parser, status
from src.runtime.errors import printable_lines
from src.study.analyse import analyse, as_json, as_text, read

DETAILS = """
TABLE.csv has a header and a row for each merge:
  generation   1, 2, 3, …
  average      of the offspring, in points
  gain         its average minus the mean of its parents' averages
  …            every other column of numbers is a metric of the parents' kinship; columns of words are left out

Saturation is found by a changepoint on ranks, in |gain| and in the first metric (docs/report.md has the rule).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 after one `error:` line on stderr."""
    parser = Parser(
        prog="python -m src.analyse",
        description="Correlate kinship with merge gain, and find when an evolution saturated.",
        epilog=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    findings = analyse(read(options.table, options.distance), options.threshold, options.patience)
    print(as_json(findings) if options.json else printable_lines(as_text(findings)))


if __name__ == "__main__":
    sys.exit(main())
