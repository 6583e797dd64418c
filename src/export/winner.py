"""The winner, handed on: its checkpoint, a card, and the recipe that makes it again from the founders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from src.export import card, licence
from src.export.metadata import is_hub_name
from src.journal import State
from src.models.checkpoint import Checkpoint
from src.models.store import Weights
from src.population import KinshipTable
from src.runtime import files


def hand_on(
    folder: Path, state: State, kinship: KinshipTable, weights: Weights, given: Mapping[str, Checkpoint]
) -> None:
    """Put copies of the best model's files into `folder`, whole or not at all; whatever lay there is replaced.

    `given` has the base, as `base`, and the founders: where they came from, and the cards that say their licences.
    """
    winner = state.population.best(1)[0]
    sources = {name: str(found.path) if Path(found.source).exists() else found.source for name, found in given.items()}
    line = [model.name for model in (*state.population.ancestors(winner.name), winner) if model.founder]
    licences = {
        name: licence.of(given[name].path, sources[name] if is_hub_name(sources[name]) else None) for name in line
    }
    with files.replacing_folder(folder) as beside:
        weights.copy_to(winner.name, beside)
        (beside / "README.md").write_text(card.model_card(state, winner.name, kinship, sources, licences))
        if licence.of_merge(licences).get("license_link") == "LICENSE.md":
            (beside / "LICENSE.md").write_text(licence.words(licences) + "\n")
        if winner.parents:
            (beside / "recipe.yaml").write_text(card.multi_recipe(state, winner.name, sources))
