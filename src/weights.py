"""The weights of a run's models: made from recipes, deleted when nobody needs them, made again when somebody does."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src import cache, merge
from src.cache import Cache
from src.checkpoint import Checkpoint, open_checkpoint
from src.errors import UserError
from src.interruption import uninterrupted

CHECKPOINT_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")


class Weights:
    """Checkpoints of the base, the founders and the offspring of one run.

    Offspring are deterministic, so their weights are only a cache: `checkpoint` makes whatever is missing.

    Attributes:
        known: the offspring that were taken from the cache of other runs instead of made.
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
        self.known: set[str] = set()

    def checkpoint(self, name: str) -> Checkpoint:
        """The model's checkpoint, made again from its recipe, and its ancestors' recipes, if it is not there.

        Raises:
            UserError: what was made is not, to the byte, what was there before; or the disk is full.
        """
        if name not in self._open or not self._open[name].path.is_dir():
            if name not in self._given and not self.place(name).is_dir():
                self._rebuild(name)
            self._open[name] = open_checkpoint(self.place(name)) if name not in self._given else self._given[name]
        return self._open[name]

    def place(self, name: str) -> Path:
        """The folder of an offspring."""
        return self._folder / name

    def make(self, name: str, recipe: merge.Recipe) -> Checkpoint:
        """Merge, beside the model's place first; whatever lay there is replaced.

        Raises:
            UserError: the disk is full.
        """
        final, beside = self.place(name), self._folder / f".{name}.partial"
        paths = {model: self.checkpoint(model).path for model in recipe.models}
        for left in (beside, final):
            shutil.rmtree(left, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            if self._cache.take_weights(key := self._key(recipe), beside):
                self.known.add(name)
            else:
                merge.merge(recipe, paths, beside, device=self._device, remote_code=self._remote_code)
                self._cache.keep_weights(key, beside)
        except Exception as error:
            shutil.rmtree(beside, ignore_errors=True)
            _refuse_full_disk(error, self._folder)
            raise
        with uninterrupted():
            beside.rename(final)
        self._open[name] = open_checkpoint(final)
        return self._open[name]

    def discard(self, keep: Iterable[str]) -> None:
        """Delete the weights of all offspring but these, and what an interrupted merge left behind."""
        kept = set(keep)
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in kept:
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
                f"{self._folder}: {need / 2**30:.2f} GiB are needed for the next {models} models and "
                f"{free / 2**30:.2f} GiB are free. Free some, or use keep=best; the same command goes on from here."
            )

    def copy_to(self, name: str, target: Path) -> None:
        """Put a model's files into a folder: hard links where the file system has them, else copies."""
        for file in self.checkpoint(name).path.iterdir():
            if file.suffix in CHECKPOINT_FILES:
                cache.link(file, target / file.name)

    def _key(self, recipe: merge.Recipe) -> str:
        """Of a merge: its recipe, with the content of what it merges in place of the names that this run gave it."""
        content = {name: Path(self.checkpoint(name).fingerprint()) for name in recipe.models}
        config = merge.with_paths(recipe.config, content)
        return cache.key(config, str(content[recipe.donor]), recipe.seed, recipe.threads, self._device)

    def _rebuild(self, name: str) -> None:
        if name not in self._recipes:
            raise UserError(f"no model {name!r} was ever merged in {self._folder.parent}")
        made = self.make(name, merge.Recipe(**self._recipes[name]))
        if made.fingerprint() != self._fingerprints[name]:
            raise UserError(
                f"{name} was merged again and came out different: the libraries or the machine are not those of the "
                "run's journal (its first line names them). Restore them, or begin anew with name=…"
            )


def _refuse_full_disk(error: Exception, folder: Path) -> None:
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    if full or "No space left on device" in str(error) or "os error 28" in str(error):
        raise UserError(
            f"the disk of {folder} is full. Free some space; the same command goes on from here."
        ) from error


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
