"""python -m src.compare outputs/A outputs/B …: which is better, how sure is that, and what did each cost?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.runtime.command import Parser, add_trust, check_folder, status

# Everything that computes is imported where it is first needed: --help and a mistyped option must answer at once.

DETAILS = """
RUN is a run's folder (outputs/NAME), a folder of runs (outputs/sweeps/strategy), a pattern ('outputs/*-3'), or an
Optuna storage (sqlite:///outputs/sweeps/strategy/study.db).

Runs that differ in their seed alone are one configuration. Where configurations share two seeds or more they are
compared over these, else the runs' best models are compared on the samples that both answered. A difference is called
real where a permutation test, adjusted for how many were compared, leaves it a p of at most 0.05.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 after one `error:` line or two on stderr."""
    options = _parser().parse_args(arguments)
    return status(lambda: _run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m src.compare",
        description="Compare runs: which is better, how sure is that, and what did each cost?",
        epilog=DETAILS,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run, a folder or pattern of runs, or an Optuna storage"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page, with curves")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one line a run, with every key that differs")
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="KEY",
        help="compare only what differs in this alone (strategy, merge)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and permutations (default 0)")
    add_trust(parser)
    return parser


def _run(options: argparse.Namespace) -> None:
    check_folder("--html", options.html)
    check_folder("--csv", options.csv)
    from src.study.compare import runs, text, verdicts

    compared = verdicts.compare(*runs.find(options.runs), by=options.by, seed=options.seed)
    if options.json:
        print(text.as_json(compared))
    else:
        from src.runtime import terminal

        terminal.console(width=None if sys.stdout.isatty() else text.WIDTH).print(text.render(compared))
    if options.csv is not None:
        options.csv.write_text(text.as_csv(compared), encoding="utf-8")
        print(f"figures in {options.csv}", file=sys.stderr)
    if options.html is not None:
        from src.study.compare import page

        page.write(compared, options.html)
        print(f"page in {options.html}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
