"""An offspring's weights, made again: `python -m src.rebuild outputs/NAME MODEL`."""

from __future__ import annotations

import sys
from pathlib import Path

from src.export.rebuild import rebuild
from src.runtime.command import Parser, add_trust, status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="python -m src.rebuild", description="Make an offspring's weights again.")
    parser.add_argument("run", type=Path, help="the run's folder, outputs/NAME")
    parser.add_argument("model", help="the offspring's name, 2-1 for example")
    add_trust(parser)
    options = parser.parse_args(arguments)
    return status(lambda: print(rebuild(options.run, options.model)))


if __name__ == "__main__":
    sys.exit(main())
