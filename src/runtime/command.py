"""Command: what every `python -m src.…` beside the run has in common. A mistake costs a line and status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from src.runtime import plugins
from src.runtime.errors import UserError, in_words, printable
from src.runtime.signals import loaded


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, and where to read more."""

    def __init__(self, prog: str, **more: Any) -> None:
        own = Path(sys.argv[0]).name.startswith("kinmerge")
        if "epilog" in more:
            more["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog.replace("python -m src.", "kinmerge ") if own else prog, **more)

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"error: {printable(message)} ({self.prog} --help tells how)\n")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Give a command that reads a run the option --trust, which allows code of the user's own to be imported."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PATH",
        type=_trusted,
        help="a dotted path that the run names and whose code may be executed: of a metric, a figure, …",
    )


def _trusted(path: str) -> str:
    plugins.trust(path)
    return path


def check_folder(option: str, file: Path | None) -> None:
    """Raise UserError where the folder is not there into which `option` is to write a file, or a folder is there."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"{option} {file}: there is no folder {file.parent}; make it first")
    if file is not None and file.is_dir():
        raise UserError(f"{option} {file}: this is a folder; expected the name of a file")


def status(work: Callable[[], object]) -> int:
    """Do a command's work. Its exit status: 0, 1 or 2 after an `error:` line or two on stderr, 130 after Ctrl-C.

    1 is the machine's failure, 2 the user's mistake.
    """
    loaded()
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` has read enough; what is still to be flushed must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        told = in_words(error)
        if told is None:
            raise
        print(f"error: {told[1]}", file=sys.stderr)
        return told[0]
    return 0
