"""Make an offspring's weights again, from its recipe: `python -m src.rebuild outputs/NAME MODEL`."""

from __future__ import annotations

import sys
from pathlib import Path

from src.command import Parser, status
from src.errors import UserError
from src.journal import events_of, replay


def rebuild(folder: Path, model: str) -> Path:
    """The folder of the model's checkpoint, made again if need be, with whatever ancestors it takes.

    Raises:
        UserError: no such run or model, a founder that is gone or changed, or a result that is not the same bytes.
    """
    state = replay(events_of(folder))
    if model not in state.recipes:
        made = ", ".join(state.recipes) or "none yet"
        raise UserError(f"{model!r} is no offspring of the run {folder.name}; merged were {made}")
    from src.cache import Cache
    from src.checkpoint import open_checkpoint
    from src.founders import check_unchanged
    from src.weights import Weights

    given = {name: open_checkpoint(source) for name, source in state.sources.items()}
    check_unchanged(given, state)
    weights = Weights(folder.resolve(), given, state.recipes, state.fingerprints, cache=Cache(None))
    for one in (*(ancestor.name for ancestor in state.population.ancestors(model)), model):
        weights.verify(one)
    return weights.checkpoint(model).path


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog="python -m src.rebuild", description="Make an offspring's weights again.")
    parser.add_argument("run", type=Path, help="the run's folder, outputs/NAME")
    parser.add_argument("model", help="the offspring's name, 2-1 for example")
    options = parser.parse_args(arguments)
    return status(lambda: print(rebuild(options.run, options.model)))


if __name__ == "__main__":
    sys.exit(main())
