"""The weights of a run's models: made from recipes, deleted when nobody needs them, made again when somebody does.

A founder that is an adapter is made in the same way, of its base and its factors.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from src.models import digest, merging
from src.models.checkpoint import Checkpoint, open_checkpoint, tensors_of
from src.models.methods.singular import factors_kept_in
from src.population import Model
from src.runtime import checksums, files, names
from src.runtime.cache import Cache, key_of
from src.runtime.errors import SpoiledError, UserError
from src.runtime.signals import uninterrupted

CHECKPOINT_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")
_NOTE = "merge.note"
"""In an offspring's folder, what is to be known of its merge: the journal may come to tell of it at the next start."""


@dataclass(frozen=True)
class Note:
    """A finished merge."""

    key: str
    """Of all that it depends on."""
    fingerprint: str
    """Of the weights and the configuration."""
    surroundings: str
    """A digest of the files beside the weights."""
    cached: bool
    """Whether it was taken from the cache of other runs instead of made."""
    seconds: float
    """That it took."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that can be evaluated."""

    folder: Path
    """Its configuration and tokenizer, and its weights unless `tensors` has them."""
    tensors: Mapping[str, torch.Tensor] | None
    fingerprint: str
    """Of its content, wherever that is."""
    cached: bool = False
    """Whether it was taken from the cache of other runs instead of made."""
    seconds: float = 0.0
    """That the merge took."""


class Store:
    """Checkpoints of the base, the founders and the offspring of one run.

    Offspring are deterministic, so their weights are only a cache: `checkpoint` makes whatever is missing.
    """

    def __init__(
        self,
        folder: Path,
        given: Mapping[str, Checkpoint],
        model: Callable[[str], Model],
        *,
        cache: Cache,
        device: str = "cpu",
        remote_code: bool = False,
    ) -> None:
        """Take over a run's folder; offspring lie in its models/, adapters with whole weights in its founders/.

        Given are the base, as `base`, and the founders; `model` tells what is known of the model of a name, or raises
        KeyError. Device and remote code are `merging.merge`'s.
        """
        self._folder = folder / "models"
        self._given = given
        self._model = model
        self._cache = cache
        self._device = device
        self._remote_code = remote_code
        self._open: dict[str, Checkpoint] = {}
        self._adapters = {name: one for name, one in given.items() if one.adapter is not None}

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the model's checkpoint, made again from its recipe, and its ancestors' recipes, if it is not there.

        Raises:
            UserError: what was made is not, to the byte, what was there before.
        """
        if name in self._given and name not in self._adapters:
            return self._given[name]
        if name not in self._open or not self.folder(name).is_dir():
            if name in self._adapters:
                self._write_adapter(name)
            elif not self.folder(name).is_dir():
                self._rebuild(name)
            self._open[name] = self._opened(name)
        return self._open[name]

    def folder(self, name: str) -> Path:
        """Return the folder of an offspring, or of an adapter's whole weights."""
        return (self._folder.with_name("founders") if name in self._adapters else self._folder) / name

    def has(self, name: str) -> bool:
        """Return whether the model's weights are on disk."""
        return (name in self._given and name not in self._adapters) or self.folder(name).is_dir()

    @contextmanager
    def merged(self, name: str, recipe: merging.Recipe, *, keep: bool, disk: bool = False) -> Iterator[Candidate]:
        """Merge in memory, for as long as the context lasts; or take what an interrupted start had merged already.

        With `keep`, the weights are written to their place, too, and stay; with `disk` they have to be on disk, though
        only while the context lasts.

        Raises:
            SpoiledError: weights that are not finite.
        """
        began, key = time.monotonic(), self._key(recipe)
        if (found := self._left_over(name, key)) is not None:
            yield found
            return
        with self._prepared(name) as partial:
            tensors, cached = self._merged(recipe, key, partial, write=keep or disk)
            _check_finite(name, tensors)
            content = digest.of_tensors(tensors, json.loads((partial / "config.json").read_text()))
            note = Note(key, content, digest.of_surroundings(partial), cached, time.monotonic() - began)
            if keep:
                self._publish(name, partial, note)
            yield Candidate(self.folder(name) if keep else partial, tensors, content, cached, note.seconds)

    def _left_over(self, name: str, key: str) -> Candidate | None:
        """Return the offspring as an interrupted start left it, found whole by `clean`; None if it has to be merged."""
        place = self.folder(name)
        if not place.is_dir():
            return None
        if (known := self._known(name)) is not None and known.fingerprint is not None:
            return Candidate(place, tensors_of(place), known.fingerprint)
        note = _note(place)
        if note is not None and note.key == key:
            return Candidate(place, tensors_of(place), note.fingerprint, note.cached, note.seconds)
        self._drop(place)  # of a run that lay here before this one
        return None

    def _merged(
        self, recipe: merging.Recipe, key: str, partial: Path, *, write: bool
    ) -> tuple[dict[str, torch.Tensor], bool]:
        """Return the tensors, and whether they were known; other files go to `partial`, the weights if `write`."""
        if self._cache.take_weights(key, partial):
            return tensors_of(partial), True
        options: dict[str, Any] = {"device": self._device, "remote_code": self._remote_code}
        partial.mkdir()
        with factors_kept_in(self._cache):
            tensors = merging.merge_in_memory(recipe, self._paths(recipe), partial, **options)
        if tensors is None:
            shutil.rmtree(partial)
            merging.merge(recipe, self._paths(recipe), partial, **options)
            tensors = tensors_of(partial)
        elif write or self._cache.weights:
            merging.write(tensors.items(), partial)
        self._cache.keep_weights(key, partial)
        return tensors, False

    def _paths(self, recipe: merging.Recipe) -> dict[str, Path]:
        return {model: self.checkpoint(model).path for model in recipe.models}

    @contextmanager
    def _prepared(self, name: str) -> Iterator[Path]:
        """Yield a place to prepare this model in, of this process alone, and gone afterwards."""
        self.folder(name).parent.mkdir(parents=True, exist_ok=True)
        partial = files.partial_path(self.folder(name))
        shutil.rmtree(partial, ignore_errors=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _publish(self, name: str, partial: Path, note: Note) -> None:
        """Rename a finished merge to its place, unless another process was faster: it made the same."""
        (partial / _NOTE).write_bytes(checksums.dump(asdict(note)))
        with uninterrupted(), suppress(FileExistsError, NotADirectoryError):
            if not self.folder(name).is_dir():
                partial.rename(self.folder(name))
        self._open[name] = self._opened(name)

    def clean(self, *, verify: bool) -> None:
        """Remove what an interrupted start left behind, all but whole offspring; nobody else may be at work.

        With `verify`, whatever is not what was merged there is removed too, to be made again when it is needed.
        """
        files.remove_abandoned(self._folder, alone=True)
        for left in self._folder.iterdir() if self._folder.is_dir() else ():
            known = self._known(left.name)
            if left.name.startswith(".") or not ((known and known.recipe) or _note(left)):
                if names.of_weights(left.name):
                    shutil.rmtree(left, ignore_errors=True)
            elif verify:
                self.verify(left.name)
        files.remove_abandoned(self._folder.with_name("founders"), alone=True)
        for name in self._adapters if verify else ():
            self.verify(name)

    def verify(self, name: str) -> None:
        """Discard an offspring that is on disk and is not what the journal, or else its own note, tells of."""
        place = self.folder(name)
        if not place.is_dir():
            return
        note, known = _note(place), None if name in self._adapters else self._known(name)
        wanted = (known and known.fingerprint) or (note and note.fingerprint)
        try:
            sound = open_checkpoint(place).fingerprint() == wanted
            sound = sound and (note is None or note.surroundings == digest.of_surroundings(place))
        except (OSError, UserError):  # cut off, or the disk gives it back no more
            sound = False
        if sound:
            self._open[name] = self._opened(name)
            return
        print(f"warning: {place} is not what was merged there; it is discarded and made again", file=sys.stderr)
        self._drop(place)

    def discard(self, keep: Iterable[str]) -> None:
        """Delete the weights of all offspring and adapters but these, and what an interrupted merge left behind."""
        kept = set(keep)
        for name in self._adapters.keys() - kept:
            if self.folder(name).is_dir():
                self._drop(self.folder(name))
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in kept and names.of_weights(folder.name):
                self._drop(folder)

    def _drop(self, folder: Path) -> None:
        # Renamed first: a model that is only half deleted must not be found by its name.
        deleted = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.deleted")
        folder.rename(deleted)
        shutil.rmtree(deleted, ignore_errors=True)
        self._open.pop(folder.name, None)

    def require_space(self, names: Iterable[str]) -> None:
        """Refuse to begin what the disk cannot hold: those of these models that are not there, of a founder's size."""
        models = sum(not self.has(name) for name in names)
        need = models * max(checkpoint.nbytes for checkpoint in self._given.values())
        place = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
        free = shutil.disk_usage(place).free
        if free < need:
            raise UserError(
                f"{self._folder}: {files.size_words(need)} are needed for the next {models} models and "
                f"{files.size_words(free)} are free. Free some; the same command goes on from here."
            )

    def copy_to(self, name: str, target: Path) -> None:
        """Put copies of a model's files into a folder: a founder's are the user's own, and links would lead to them."""
        place = self.checkpoint(name).path
        for file in (*place.iterdir(), *place.glob(f"{digest.TEMPLATES}/*.jinja")):
            if file.suffix in CHECKPOINT_FILES and file.is_file():
                copied = target / file.relative_to(place)
                copied.parent.mkdir(exist_ok=True)
                files.copy(file, copied)

    def _opened(self, name: str) -> Checkpoint:
        """Open what lies in a model's folder."""
        place = self.folder(name)
        return self._adapters[name].written(place) if name in self._adapters else open_checkpoint(place)

    def _write_adapter(self, name: str) -> None:
        """Write an adapter's whole weights, unless an earlier start did."""
        given, place, began = self._adapters[name], self.folder(name), time.monotonic()
        assert given.adapter is not None
        note, key = _note(place), given.fingerprint()
        if place.is_dir() and (note is None or note.key != key):
            self._drop(place)  # of a run that lay here before this one
        if not place.is_dir():
            with self._prepared(name) as partial:
                partial.mkdir()
                merging.write(given.adapter.weights(), partial)
                merging.copy_surroundings(given, partial)
                self._publish(name, partial, _noted(partial, key, began))

    def _key(self, recipe: merging.Recipe) -> str:
        """Return the key of a merge: its recipe, with models by their content, not by their names.

        The offspring's other files are the donor's.
        """
        content = {name: Path(self.checkpoint(name).fingerprint()) for name in recipe.models}
        config = merging.with_paths(recipe.config, content)
        donor = [str(content[recipe.donor]), digest.of_surroundings(self.checkpoint(recipe.donor).path)]
        return key_of(config, donor, recipe.seed, recipe.threads, self._device.partition(":")[0])

    def _known(self, name: str) -> Model | None:
        try:
            return self._model(name)
        except KeyError:
            return None

    def _rebuild(self, name: str) -> None:
        known = self._known(name)
        if known is None or known.recipe is None:
            raise UserError(f"no model {name!r} was ever merged in {self._folder.parent}")
        recipe, began = merging.Recipe(**known.recipe), time.monotonic()
        key = self._key(recipe)
        with self._prepared(name) as partial:
            cached = self._cache.take_weights(key, partial)
            if not cached:
                merging.merge(recipe, self._paths(recipe), partial, device=self._device, remote_code=self._remote_code)
                self._cache.keep_weights(key, partial)
            note = _noted(partial, key, began, cached=cached)
            if note.fingerprint != known.fingerprint:
                raise UserError(
                    f"{name} was merged again and came out different: the libraries or the machine are not those of "
                    "the run's journal (its first line names them). Restore them, or begin anew with name=…"
                )
            self._publish(name, partial, note)


def _noted(place: Path, key: str, began: float, *, cached: bool = False) -> Note:
    """Return what is to be known of the checkpoint that was made at a place."""
    content, surroundings = open_checkpoint(place).fingerprint(), digest.of_surroundings(place)
    return Note(key, content, surroundings, cached, time.monotonic() - began)


def _note(place: Path) -> Note | None:
    """Return what lies in an offspring's folder to be known of its merge; None where that cannot be believed."""
    try:
        return Note(**checksums.load((place / _NOTE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _check_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN, which mergekit lets pass and lm-eval scores as if it were a model."""
    floats = {key: tensor for key, tensor in sorted(tensors.items()) if tensor.is_floating_point()}
    wrong = [key for key, tensor in floats.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]
    if wrong:
        raise SpoiledError(
            f"{name} has NaN or infinite weights, first in {wrong[0]} ({len(wrong)} of {len(floats)} tensors)"
        )
