"""What is remembered across runs, keyed by content: evaluations, kinship numbers and, if asked for, merged weights.

A key is a digest of everything that the value depends on, so an entry is right for ever or never found again. Entries
are written beside their place and renamed: any number of runs may share a folder, which may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.kinship import Grams


class Cache:
    """A folder of things that need not be computed again; without a folder, it never knows anything.

    Attributes:
        weights: whether merged weights are remembered too.
    """

    def __init__(self, folder: Path | None, *, weights: bool = False) -> None:
        """Use `folder` (made on first use), for merged weights too if `weights`."""
        self._folder = folder
        self.weights = weights and folder is not None

    def evaluation(self, key: str) -> dict[str, Any] | None:
        """The evaluation kept under a key; None where there is none, or one that cannot be read."""
        if self._folder is None:
            return None
        try:
            found: dict[str, Any] = json.loads((self._folder / "evaluations" / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def keep_evaluation(self, key: str, evaluation: Mapping[str, Any]) -> None:
        """Remember an evaluation."""
        if self._folder is not None:
            _write(self._folder / "evaluations" / f"{key}.json", json.dumps(evaluation).encode())

    def grams(self, key: str, names: tuple[str, ...]) -> Grams | None:
        """The Gram matrices kept under a key, for models of these names in the order they were kept in."""
        if self._folder is None:
            return None
        try:
            return replace(Grams.load(self._folder / "kinship" / f"{key}.npz"), names=names)
        except (FileNotFoundError, UserError):
            return None

    def keep_grams(self, key: str, grams: Grams) -> None:
        """Remember Gram matrices; the names that a run gave the models are its own affair."""
        if self._folder is not None:
            grams.save(self._folder / "kinship" / f"{key}.npz")

    def take_weights(self, key: str, target: Path) -> bool:
        """Put the merged checkpoint kept under a key into the folder `target`; False where there is none."""
        kept = self._folder / "weights" / key if self._folder is not None and self.weights else None
        if kept is None or not kept.is_dir():
            return False
        shutil.copytree(kept, target, copy_function=link)
        return True

    def keep_weights(self, key: str, source: Path) -> None:
        """Remember a merged checkpoint, if weights are to be remembered."""
        if self._folder is None or not self.weights:
            return
        kept = self._folder / "weights" / key
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as beside:
            made = Path(beside) / "checkpoint"
            shutil.copytree(source, made, copy_function=link)
            if not kept.exists():
                made.rename(kept)


def key(*parts: Any) -> str:
    """A digest of JSON-like parts and of the versions of the libraries that decide what comes out."""
    return hashlib.sha256(json.dumps([*parts, _versions()], sort_keys=True).encode()).hexdigest()


@functools.cache  # looked up in files, a hundredth of a second each
def _versions() -> dict[str, str]:
    return {library: version(library) for library in ("torch", "transformers", "mergekit", "lm-eval")}


def link(source: str | Path, target: str | Path) -> None:
    """A hard link where the file system has them, else a copy: weights need not lie there twice."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(beside).replace(path)
