"""Look at a run: `python -m src.report outputs/NAME` makes one self-contained page of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from src.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (python -m src.report --help tells how)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 2 after one `error:` line on stderr."""
    parser = _Parser(
        prog="python -m src.report",
        description="Make one self-contained page of a run, finished or not: figures, tables, and what they say.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, outputs/NAME")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to put it (default: report.html in that folder)"
    )
    options = parser.parse_args(arguments)
    try:
        from src.report.page import write

        print(write(options.run, options.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {options.out or options.run} cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
