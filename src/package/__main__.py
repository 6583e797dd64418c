"""The command `kinmerge`: a run (`kinmerge strategy=kinship_topk`), or another program (`kinmerge report RUN`)."""

import difflib
import re
import runpy
import sys
from pathlib import Path

from . import ROOT

PROGRAMS = (
    *("analyse", "compare", "holdout", "kinship", "rebuild", "report", "run", "track", "tradeoff", "zoo"),
    *("models.methods", "models.methods.inputs"),
)
"""Each is `python -m src.NAME`; a run's settings are KEY=VALUE, so none can be mistaken for one of them."""


def main() -> None:
    """Do what `python -m src.NAME` does, with the rest of the command line."""
    from src.runtime import opening, signals

    if re.fullmatch(r"[a-z_.]+", first := "".join(sys.argv[1:2])) and first not in PROGRAMS:
        near = "".join(f"Did you mean {one}? " for one in difflib.get_close_matches(first, PROGRAMS, n=1))
        sys.exit(
            _refused(f"{first}: no such command. {near}Known: {', '.join(PROGRAMS)}; a run's settings are KEY=VALUE")
        )
    name = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in PROGRAMS else "run"
    sys.argv[0] = "kinmerge" if name == "run" else f"kinmerge {name}"
    # Processes that a launcher begins find the code where this one does, and everything else in the current folder.
    sys.path[:0] = [str(ROOT), str(Path.cwd())]
    signals.loading()
    opening.begin(name == "run")
    if name == "run":
        from src.run import main

        main()
    else:
        runpy.run_module(f"src.{name}", run_name="__main__")


def _refused(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
