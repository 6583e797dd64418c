"""Look at a run: `python -m src.report outputs/NAME` makes one self-contained page of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from src.runtime.command import Parser, add_trust, check_folder, status
from src.runtime.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 after one `error:` line on stderr."""
    parser = Parser(
        prog="python -m src.report",
        description="Make one self-contained page of a run, finished or not: figures, tables, and what they say.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, outputs/NAME")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to put it (default: report.html in that folder)"
    )
    add_trust(parser)
    options = parser.parse_args(arguments)
    return status(lambda: print(_write(options.run, options.out)))


def _write(run: Path, out: Path | None) -> Path:
    check_folder("--out", out)
    from src.report.page import write

    try:
        return write(run, out)
    except OSError as error:
        raise UserError(f"{out or run} cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
