"""Trade-offs after the fact: `python -m src.tradeoff outputs/NAME [--weight TASK=W …] [--front TASK TASK] [--make]`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.runtime.command import Parser, add_trust, check_folder, status
from src.runtime.errors import UserError

if TYPE_CHECKING:
    from src.pages.tables import Table
    from src.study.tradeoff.front import Front, Point

# Everything that computes is imported where it is first needed: --help and a mistyped option must answer at once.

DETAILS = """
RUN is the folder of a run of strategy=recipe_search, finished or not. Nothing is evaluated: what its models answered
tells what any recipe would answer.

Without options, a row a weighting of the tasks: the run's own, the worst task alone, and each task counting as much as
all others together. Weights replace the run's own, those of tasks not named stay; `--weight worst` is the worst task.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 after one `error:` line on stderr."""
    options = _parser().parse_args(arguments)
    return status(lambda: _run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m src.tradeoff",
        description="Trade tasks against each other after a run: the predicted front, and the recipe of any weighting.",
        epilog=DETAILS,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, outputs/NAME")
    parser.add_argument(
        "--weight", nargs="+", action="extend", default=[], metavar="TASK=W", help="print the recipe of this weighting"
    )
    parser.add_argument("--front", nargs=2, metavar="TASK", help="print the front between two tasks")
    parser.add_argument("--make", action="store_true", help="merge the recipe of --weight, or of the run's own weights")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to; default RUN/tradeoffs/WEIGHTS")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with the front between two tasks")
    add_trust(parser)
    return parser


def _run(options: argparse.Namespace) -> None:
    check_folder("--html", options.html)
    if options.out is not None and not options.make:
        raise UserError("--out is where --make puts the model; give both")
    given = None if options.weight == ["worst"] else _weights(options.weight)
    target = options.out or options.run / "tradeoffs" / _label(options.weight)
    if options.make and target.exists():
        raise UserError(f"{target} is there already and stays as it is; --out FOLDER makes the model elsewhere")
    from rich.console import Group

    from src.runtime import terminal
    from src.study.tradeoff import front as fronts
    from src.study.tradeoff import view

    front = fronts.load(options.run)
    front.require(*(given or ()), *(options.front or ()))
    tables: dict[str, Table] = {}
    asked = bool(options.weight) or options.make
    if asked:
        label, objective = next(reversed(front.general.items())) if given is None else front.asked(given)
        (point,) = front.points({label or fronts.AVERAGE: objective})
        tables["predicted; ± 95 %"] = view.table(front, [point])
        tables[f"recipe of {point.label}"] = view.recipe(front, point)
    tables |= _fronts(front, options, asked)
    width = None if sys.stdout.isatty() else view.WIDTH
    terminal.console(width=width).print(Group(*(view.printed(one, title) for title, one in tables.items())))
    if asked:
        _deliver(front, point, options, target)


def _fronts(front: Front, options: argparse.Namespace, asked: bool) -> dict[str, Table]:
    """Return the tables of fronts that were asked for, by title, and write the page."""
    from src.study.tradeoff import view
    from src.study.tradeoff.front import most_opposed

    tables: dict[str, Table] = {}
    points: list[Point] = []
    pair = tuple(options.front) if options.front else None
    if not (pair or asked) or (options.html and not pair):
        points = front.points({**front.general, **front.emphasised})
        pair = pair or most_opposed(points[len(front.general) :], front.tasks)
    if points and not asked:
        tables["predicted front; ± 95 %"] = view.table(front, points)
    if options.front or options.html:
        if pair is None:
            raise UserError(f"{front.name} has one task, {front.tasks[0]}: nothing to trade it against")
        between = front.points(front.between(*pair))
        tables[f"front between {pair[0]} and {pair[1]}, predicted; ± 95 %"] = view.table(front, between)
        if options.html:
            view.write(front, points, (pair[0], pair[1]), between, options.html)
            print(f"page in {options.html}", file=sys.stderr)
    return tables


def _deliver(front: Front, point: Point, options: argparse.Namespace, target: Path) -> None:
    """Print a recipe as YAML, and make it if that was asked for."""
    from src.export.unmade import Unmade

    unmade = Unmade(options.run, front.proposal(point))
    print(unmade.recipe(), end="")
    if options.make:
        one = point.average
        unmade.make(
            target,
            f"{point.label}, of {front.name}; predicted average {one.value:.2f} ({one.low:.2f} to {one.high:.2f})",
        )
        print(f"model in {target}", file=sys.stderr)


def _weights(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for one in texts:
        task, _, weight = one.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            task = ""
        if not task:
            raise UserError(f"--weight {one}: expected TASK=W, W a number, or worst alone")
        found[task] = number
    return found


def _label(weights: Sequence[str]) -> str:
    """Return a name for a folder."""
    return re.sub(r"[^A-Za-z0-9._+=,-]+", "-", ",".join(weights)).strip("-.")[:100] or "average"


if __name__ == "__main__":
    sys.exit(main())
