"""python -m src.zoo FOLDER: build the embedded family, with a bar for every model."""

import argparse
import sys
from pathlib import Path

from src import zoo
from src.runtime.command import Parser, status


def _arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m src.zoo",
        description="Build the embedded family: a tiny base, founders fine-tuned from it, and their lm-eval tasks.",
    )
    parser.add_argument("folder", type=Path, help="where to build it; a finished family of the same seed is kept")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another family (default: 0)")
    parser.add_argument("--effort", type=float, default=1.0, help="scales the training steps (default: 1)")
    return parser.parse_args()


def main() -> int:
    """Build the family named on the command line; 0 when it is there, 2 when the arguments make no sense."""
    arguments = _arguments()
    return status(lambda: _build(arguments))


def _build(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(desc=f"{stage:>12}", total=total, leave=True)
        bars[stage].update(done - bars[stage].n)
        if done == total:
            bars[stage].close()

    zoo.build(arguments.folder, arguments.seed, effort=arguments.effort, progress=progress)
    folder = arguments.folder.resolve()
    print(f"base      {folder / 'base'}")
    print(f"founders  {' '.join(str(folder / founder) for founder in zoo.FOUNDERS)}")
    print(f"tasks     {folder / 'tasks'}  ({len(zoo.TASKS)}: {' '.join(zoo.TASKS)})")


if __name__ == "__main__":
    sys.exit(main())
