"""Make an offspring's weights again, from its recipe: `python -m src.rebuild outputs/NAME MODEL`."""

from __future__ import annotations

from pathlib import Path

from src.journal import events_of, replay
from src.runtime.errors import UserError


def rebuild(folder: Path, model: str) -> Path:
    """Rebuild a model's checkpoint, with whatever ancestors it takes, and return its folder.

    Raises:
        UserError: no such run or model, a founder that is gone or changed, or a result that is not the same bytes.
    """
    state = replay(events_of(folder))
    merged = [one.name for one in state.population if one.recipe is not None]
    if model not in merged:
        made = ", ".join(merged) or "none yet"
        raise UserError(f"{model!r} is no offspring of the run {folder.name}; merged were {made}")
    from src.models.checkpoint import open_family
    from src.models.founders import check_unchanged
    from src.models.store import Store
    from src.runtime.cache import Cache

    given = open_family(state.sources)
    check_unchanged(given, state.model)
    store = Store(folder.resolve(), given, state.model, cache=Cache(None))
    for one in (*(ancestor.name for ancestor in state.population.ancestors(model)), model):
        store.verify(one)
    place = store.checkpoint(model).path
    store.discard(merged)  # the whole weights of adapters are for merges alone
    return place
