"""The weights of a run's models: made from recipes, deleted when nobody needs them, made again when somebody does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from src import cache, digest, merge, names
from src.cache import Cache
from src.checkpoint import Checkpoint, open_checkpoint, tensors_of
from src.errors import SpoiledError, UserError
from src.files import size_words
from src.interruption import uninterrupted

CHECKPOINT_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, eq=False)
class Born:
    """A model that can be evaluated."""

    folder: Path
    """Its configuration and tokenizer, and its weights unless `tensors` has them."""
    tensors: Mapping[str, torch.Tensor] | None
    fingerprint: str
    """Of its content, wherever that is."""
    cached: bool = False
    """Whether it was taken from the cache of other runs instead of made."""


class Weights:
    """Checkpoints of the base, the founders and the offspring of one run.

    Offspring are deterministic, so their weights are only a cache: `checkpoint` makes whatever is missing.
    """

    def __init__(
        self,
        folder: Path,
        given: Mapping[str, Checkpoint],
        recipes: Mapping[str, Mapping[str, Any]],
        fingerprints: Mapping[str, str],
        *,
        cache: Cache,
        device: str = "cpu",
        remote_code: bool = False,
    ) -> None:
        """Take over a folder of models.

        Args:
            folder: the run's; offspring lie in its models/.
            given: the base, as `base`, and the founders.
            recipes: of every offspring that was made, by name; may grow.
            fingerprints: of their content; may grow.
            cache: of merged weights across runs.
            device: what merges are computed on.
            remote_code: whether a checkpoint may execute Python code of its own.
        """
        self._folder = folder / "models"
        self._given = given
        self._recipes = recipes
        self._fingerprints = fingerprints
        self._cache = cache
        self._device = device
        self._remote_code = remote_code
        self._open: dict[str, Checkpoint] = dict(given)

    def checkpoint(self, name: str) -> Checkpoint:
        """The model's checkpoint, made again from its recipe, and its ancestors' recipes, if it is not there.

        Raises:
            UserError: what was made is not, to the byte, what was there before.
        """
        if name not in self._open or not self._open[name].path.is_dir():
            if name not in self._given and not self.place(name).is_dir():
                self._rebuild(name)
            self._open[name] = open_checkpoint(self.place(name)) if name not in self._given else self._given[name]
        return self._open[name]

    def place(self, name: str) -> Path:
        """The folder of an offspring."""
        return self._folder / name

    def there(self, name: str) -> bool:
        """Whether the model's weights are on disk."""
        return name in self._given or self.place(name).is_dir()

    @contextmanager
    def born(self, name: str, recipe: merge.Recipe, *, keep: bool, disk: bool = False) -> Iterator[Born]:
        """Merge in memory, for as long as the context lasts.

        Args:
            name: of the offspring.
            recipe: how it is made.
            keep: whether its weights are written to its place, too, and stay there.
            disk: whether they have to be on disk in any case, though only while the context lasts.

        Raises:
            SpoiledError: weights that are not finite.
        """
        with self._beside(name) as beside:
            tensors, cached = self._merged(recipe, beside, write=keep or disk)
            _check_finite(name, tensors)
            content = digest.of_tensors(tensors, json.loads((beside / "config.json").read_text()))
            born = Born(beside, tensors, content, cached)
            if keep:
                self._settle(name, beside)
                born = replace(born, folder=self.place(name))
            yield born

    def make(self, name: str, recipe: merge.Recipe) -> Checkpoint:
        """Merge to the model's place, by way of one beside it."""
        with self._beside(name) as beside:
            if not self._cache.take_weights(key := self._key(recipe), beside):
                merge.merge(recipe, self._paths(recipe), beside, device=self._device, remote_code=self._remote_code)
                self._cache.keep_weights(key, beside)
            self._settle(name, beside)
        return self._open[name]

    def _merged(self, recipe: merge.Recipe, beside: Path, *, write: bool) -> tuple[dict[str, torch.Tensor], bool]:
        """The tensors, and whether they were known; other files go to the folder `beside`, the weights if `write`."""
        key = self._key(recipe)
        if self._cache.take_weights(key, beside):
            return tensors_of(beside), True
        options: dict[str, Any] = {"device": self._device, "remote_code": self._remote_code}
        beside.mkdir()
        tensors = merge.merge_in_memory(recipe, self._paths(recipe), beside, **options)
        if tensors is None:
            shutil.rmtree(beside)
            merge.merge(recipe, self._paths(recipe), beside, **options)
            tensors = tensors_of(beside)
        elif write or self._cache.weights:
            merge.write(tensors, beside)
        self._cache.keep_weights(key, beside)
        return tensors, False

    def _paths(self, recipe: merge.Recipe) -> dict[str, Path]:
        return {model: self.checkpoint(model).path for model in recipe.models}

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        """A place for something that becomes this model, of this process alone, and gone afterwards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{name}.{os.getpid()}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _settle(self, name: str, beside: Path) -> None:
        """Make what lies beside its place the model, unless another process was faster: it made the same."""
        with uninterrupted(), suppress(FileExistsError, NotADirectoryError):
            if not self.place(name).is_dir():
                beside.rename(self.place(name))
        self._open[name] = open_checkpoint(self.place(name))

    def sweep(self) -> None:
        """Remove what an interrupted start left behind and the journal does not know; nobody else may be at work."""
        for left in self._folder.iterdir() if self._folder.is_dir() else ():
            if left.name not in self._recipes and names.of_weights(left.name):
                shutil.rmtree(left, ignore_errors=True)

    def discard(self, keep: Iterable[str]) -> None:
        """Delete the weights of all offspring but these, and what an interrupted merge left behind."""
        kept = set(keep)
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in kept and names.of_weights(folder.name):
                # Renamed first: a model that is only half deleted must not be found by its name.
                beside = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.deleted")
                folder.rename(beside)
                shutil.rmtree(beside, ignore_errors=True)
                self._open.pop(folder.name, None)

    def require_space(self, models: int, room: int = 0) -> None:
        """Refuse to begin what the disk cannot hold: so many more models of a founder's size, and `room` bytes.

        Raises:
            UserError: saying how much is free, and how much it takes.
        """
        need = models * max(checkpoint.nbytes for checkpoint in self._given.values()) + room
        free = shutil.disk_usage(_existing(self._folder)).free
        if free < need:
            raise UserError(
                f"{self._folder}: {size_words(need)} are needed for the next {models} models and "
                f"{size_words(free)} are free. Free some, or use keep=best; the same command goes on from here."
            )

    def copy_to(self, name: str, target: Path) -> None:
        """Put a model's files into a folder: hard links where the file system has them, else copies."""
        for file in self.checkpoint(name).path.iterdir():
            if file.suffix in CHECKPOINT_FILES:
                cache.link(file, target / file.name)

    def _key(self, recipe: merge.Recipe) -> str:
        """Of a merge: its recipe, with the content of what it merges in place of the names that this run gave it.

        The offspring's other files are the donor's.
        """
        content = {name: Path(self.checkpoint(name).fingerprint()) for name in recipe.models}
        config = merge.with_paths(recipe.config, content)
        donor = [str(content[recipe.donor]), digest.of_surroundings(self.checkpoint(recipe.donor).path)]
        return cache.key(config, donor, recipe.seed, recipe.threads, self._device.partition(":")[0])

    def _rebuild(self, name: str) -> None:
        if name not in self._recipes:
            raise UserError(f"no model {name!r} was ever merged in {self._folder.parent}")
        made = self.make(name, merge.Recipe(**self._recipes[name]))
        if made.fingerprint() != self._fingerprints[name]:
            raise UserError(
                f"{name} was merged again and came out different: the libraries or the machine are not those of the "
                "run's journal (its first line names them). Restore them, or begin anew with name=…"
            )


def _check_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """mergekit lets NaN pass, and lm-eval scores it as if it were a model."""
    floats = {key: tensor for key, tensor in sorted(tensors.items()) if tensor.is_floating_point()}
    wrong = [key for key, tensor in floats.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]
    if wrong:
        raise SpoiledError(
            f"{name} has NaN or infinite weights, first in {wrong[0]} ({len(wrong)} of {len(floats)} tensors)"
        )


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
