"""The best model's folder: its checkpoint, a card, and the recipe that makes it again from the founders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.export import card, licence
from src.journal import State
from src.models.checkpoint import Checkpoint
from src.models.store import Store
from src.population import KinshipTable
from src.runtime import files


def export(folder: Path, state: State, kinship: KinshipTable, store: Store, given: Mapping[str, Checkpoint]) -> None:
    """Put copies of the best model's files into `folder`, whole or not at all; whatever lay there is replaced.

    Beside them lie its card, its recipe and, if need be, its founders' licences. `given` are the base, as `base`, and
    the founders: where they came from, and the cards that say their licences.
    """
    winner = state.population.best(1)[0]
    sources = {name: found.origin for name, found in given.items()}
    line = [model.name for model in (*state.population.ancestors(winner.name), winner) if model.founder]
    licences = {name: licence.declared_licence(given[name].path, card.hub_name(sources[name])) for name in line}
    with files.replacing_folder(folder) as partial:
        store.copy_to(winner.name, partial)
        (partial / "README.md").write_text(card.model_card(state, winner.name, kinship, sources, licences))
        if licence.merged_fields(licences).get("license_link") == "LICENSE.md":
            (partial / "LICENSE.md").write_text(licence.describe(licences) + "\n")
        if winner.parents:
            (partial / "recipe.yaml").write_text(card.multi_recipe(state, winner.name, sources))
