"""The winner's curse over several runs: `python -m src.holdout outputs/A outputs/B …`."""

from __future__ import annotations

import sys
from pathlib import Path

from src.journal import events_of, replay
from src.runtime.command import Parser, status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m src.holdout", description="Measure the winner's curse over several runs.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of different families, outputs/NAME")
    options = parser.parse_args(arguments)
    return status(lambda: _print(options.runs))


def _print(runs: list[Path]) -> None:
    names = [folder.name for folder in runs]
    states = {str(one) if names.count(one.name) > 1 else one.name: replay(events_of(one)) for one in runs}
    from src.evaluation.holdout import table  # SciPy, for which a mistyped name need not wait

    print(table(states))


if __name__ == "__main__":
    sys.exit(main())
