"""The first words of `python -m src.…`: that it has begun, or that its Python has not what it takes.

Nothing is imported here but the standard library, which is all that there may be.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from src.runtime import launch

READING = "kinmerge: reading the configuration, the founders and the tasks …"
QUIET = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc"}
"""Options that are answered at once, by what a program may be about to read."""


def begin(run: bool) -> None:
    """Say that a run, if it is one, has begun: imports take seconds. Have missing packages explained."""
    sys.excepthook = explain
    given = getattr(sys, "orig_argv", [])
    asked = {one.partition("=")[0] for one in given}
    wanted = run and not asked & QUIET and not launch.rank()
    if wanted and find_spec("hydra") is not None:  # else there is something else to say
        print(READING, file=sys.stderr, flush=True)


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with one line where a package is missing; show any other error as Python does. In place of sys.excepthook."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "src").partition(".")[0] == "src":
        sys.__excepthook__(kind, error, trace)
        return
    root = Path(__file__).parents[2]
    here = root.samefile(Path.cwd())
    make, own = "make install" if here else f"make -C {root} install", root / ".venv/bin/python"
    shown = own.relative_to(root) if here else own
    if (root / "__init__.py").exists():  # this is the installed package
        advice = "installing kinmerge by pip without --no-deps brings it"
    elif own.exists() and Path(sys.prefix).resolve() != own.parents[1].resolve():
        advice = f"{shown} -m … has the environment's"
    else:
        advice = f"`{make}` makes the environment that has it; then {shown} -m …"
    print(f"error: {sys.executable} has no package {error.name}; {advice}", file=sys.stderr, flush=True)
    os._exit(2)  # the status of a user's mistake, which a hook cannot give otherwise
