"""python -m src.zoo FOLDER: build the embedded family."""

import sys
from pathlib import Path

from src import zoo
from src.runtime.command import Parser, status


def main() -> int:
    """Build the family named on the command line; return 0 when it is there, 2 when the arguments make no sense."""
    parser = Parser(
        prog="python -m src.zoo",
        description="Build the embedded family: a tiny base, founders fine-tuned from it, and their lm-eval tasks.",
    )
    parser.add_argument("folder", type=Path, help="where to build it; a finished family of the same seed is kept")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another family (default: 0)")
    parser.add_argument("--effort", type=float, default=1.0, help="scales the training steps (default: 1)")
    arguments = parser.parse_args()
    return status(lambda: _build(arguments.folder.resolve(), arguments.seed, arguments.effort))


def _build(folder: Path, seed: int, effort: float) -> None:
    zoo.prepare(folder, seed, effort)
    print(f"base      {folder / 'base'}")
    print(f"founders  {' '.join(str(folder / founder) for founder in zoo.FOUNDERS)}")
    print(f"tasks     {folder / 'tasks'}  ({len(zoo.TASKS)}: {' '.join(zoo.TASKS)})")


if __name__ == "__main__":
    sys.exit(main())
