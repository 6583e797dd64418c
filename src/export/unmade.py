"""A model that a run's answers speak for and that the run never made: its recipe, and its weights on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from src.export.card import multi_recipe, rebuilding
from src.journal import Event, State, events_of, replay
from src.population import Proposal
from src.runtime import files
from src.runtime.cache import Cache
from src.runtime.errors import UserError, printable

if TYPE_CHECKING:
    from src.models.checkpoint import Checkpoint

RECIPE = "recipe.yaml"


@dataclass(frozen=True, eq=False)
class Unmade:
    """A merge of a run's models outside of its journal, where its files stay as they are."""

    folder: Path
    """The run's."""
    proposal: Proposal

    @cached_property
    def _state(self) -> State:
        return replay(events_of(self.folder))

    @cached_property
    def name(self) -> str:
        """What the run would call it; it counts from 1 and never calls a model so."""
        return f"{self._state.population.generation + 1}-0"

    @cached_property
    def _given(self) -> Mapping[str, Checkpoint]:
        from src.models.checkpoint import open_family

        return open_family(self._state.sources)

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        from src.config import Merge
        from src.models import merging
        from src.models.methods.lineage import composed

        started, given = self._state.started or {}, self._given
        planned = merging.recipe(
            TypeAdapter(Merge).validate_python(started["settings"]["merge"]),
            self.proposal.parents,
            seed=started["settings"]["seed"],
            threads=started["machine"]["threads"],
            own=self.proposal.merge,
            align=merging.align([*given.values()]),
            stored=next(one.dtype for name, one in given.items() if self._state.model(name) is not self._state.base),
        )
        recipes = {name: made for name in self.proposal.parents if (made := self._state.model(name).recipe) is not None}
        return composed(planned, recipes).as_dict()

    @cached_property
    def _made(self) -> State:
        """The run's past, had it made the model next."""
        generation, offspring = self._state.population.generation + 1, {"name": self.name, **self.proposal.as_dict()}
        told: list[Event] = [
            {"event": "selected", "generation": generation, "offspring": [offspring]},
            {"event": "merged", "model": self.name, "recipe": self._recipe, "fingerprint": "", "seconds": 0.0},
        ]
        return replay(told, replay(events_of(self.folder)))

    @cached_property
    def _origins(self) -> dict[str, str]:
        return {name: one.origin for name, one in self._given.items()}

    def recipe(self) -> str:
        """Return all merges from the founders to the model, as one YAML stream for mergekit-multi."""
        return multi_recipe(self._made, self.name, self._origins)

    def make(self, target: Path, words: str) -> None:
        """Merge it into a new folder, with its recipe, which begins with `words` and the command that makes it again.

        Ancestors that are not on disk are made again, and deleted after.

        Raises:
            UserError: something lies at `target`; a founder is gone or has changed.
        """
        from src.models import merging
        from src.models.founders import check_unchanged
        from src.models.store import Store

        if target.exists():
            raise UserError(f"{target} is there already and stays as it is; --out FOLDER makes the model elsewhere")
        check_unchanged(self._given, self._state.model)
        store = Store(self.folder.resolve(), self._given, self._state.model, cache=Cache(None))
        for one in self.proposal.parents:
            store.verify(one)
        before = [model.name for model in self._state.population if store.has(model.name)]
        try:
            with (
                store.merged(self.name, merging.Recipe(**self._recipe), keep=False, disk=True) as candidate,
                files.replacing_folder(target.absolute()) as partial,
            ):
                for file in candidate.folder.iterdir():
                    files.copy(file, partial / file.name)
                lines = (words, f"{rebuilding(self._made, self.name, self._origins)}   makes it again")
                comment = "".join(f"# {printable(line)}\n" for line in lines)
                (partial / RECIPE).write_text(comment + self.recipe(), encoding="utf-8")
        finally:
            store.discard(before)
