"""What is remembered across runs, keyed by content: evaluations, kinship numbers, factors and, if asked for, weights.

A key is a digest of everything that the value depends on, so an entry is right for ever or never found again. Entries
are written beside their place and renamed: any number of runs may share a folder, which may be deleted at any time.
Every entry carries a checksum of its content and its key; one that does not match is discarded and made again. A folder
that cannot be read or written costs a warning and the time that it would have saved, never the run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from src.runtime import checksums, files
from src.runtime.errors import UserError

Kept = TypeVar("Kept")

_CHECKSUMS = "checksums.json"
"""Beside the files of a merged checkpoint; whoever made the entry wrote it last."""


class Cache:
    """A folder of things that need not be computed again; without a folder, it never knows anything.

    Attributes:
        weights: whether merged weights are remembered too.
    """

    def __init__(self, folder: Path | None, *, weights: bool = False, factors: int = 0) -> None:
        """Use a folder, made on first use; clear what killed writers left.

        Factors of founders' changes have `factors` bytes at most.
        """
        self._folder = folder
        self._broken: set[str] = set()
        self._warned: set[str] = set()
        self.weights = weights and folder is not None
        self._most = factors
        self._began = time.time()
        if folder is not None:
            with suppress(OSError):
                for kind in ("evaluations", "kinship", "factors", "weights"):
                    files.remove_abandoned(folder / kind)

    def evaluation(self, key: str, read: Callable[[Mapping[str, Any]], Kept]) -> Kept | None:
        """Return what `read` makes of the evaluation kept under a key; None where there is none that can be believed.

        `read` raises ValueError for what is no evaluation.
        """

        def parse(data: bytes) -> Kept:
            kept = checksums.load(data)
            if kept.pop("key", None) != key:
                raise ValueError("another entry was put in its place")
            return read(kept)

        return self._get("evaluations", f"{key}.json", parse)

    def keep_evaluation(self, key: str, evaluation: Mapping[str, Any]) -> None:
        """Remember an evaluation."""
        self._put("evaluations", f"{key}.json", lambda: checksums.dump({**evaluation, "key": key}))

    def answers(self, key: str) -> bytes | None:
        """Return the content of a file of answers kept under an evaluation's key; None where there is none."""
        return self._get("evaluations", f"{key}.npz", lambda data: checksums.unwrap(data, key))

    def keep_answers(self, key: str, content: Callable[[], bytes]) -> None:
        """Remember the answers of an evaluation: before the evaluation, so that it is never there without them."""
        self._put("evaluations", f"{key}.npz", lambda: checksums.wrap(content(), key))

    def kinship(self, key: str, read: Callable[[bytes], Kept]) -> Kept | None:
        """Return what `read` makes of the inner products kept under a key; None where there are none."""
        return self._get("kinship", f"{key}.npz", lambda data: read(checksums.unwrap(data, key)))

    def keep_kinship(self, key: str, content: Callable[[], bytes]) -> None:
        """Remember inner products; the names that a run gave the models are its own affair."""
        self._put("kinship", f"{key}.npz", lambda: checksums.wrap(content(), key))

    def factors(self, key: str, read: Callable[[bytes], Kept]) -> Kept | None:
        """Return what `read` makes of the factors kept under a key; None where there are none."""
        name = f"{key}.safetensors"
        found = self._get("factors", name, lambda data: read(checksums.unwrap(data, key)))
        if found is not None:
            with suppress(OSError):
                os.utime(self._place("factors", name))
        return found

    def keep_factors(self, key: str, content: Callable[[], bytes]) -> None:
        """Remember factors, in place of others that nobody has used since this process began, the oldest first.

        Those that were used stay: of more than there is room for, a part is found again and again, not none.
        """
        if self._folder is None or not self._most or "written" in self._broken:
            return
        data = checksums.wrap(content(), key)
        if self._make_room(len(data)):
            self._put("factors", f"{key}.safetensors", lambda: data)

    def _make_room(self, needed: int) -> bool:
        """Return whether there is room for so many more bytes of factors, now that others had to go."""
        kept = []
        with suppress(OSError), os.scandir(self._place("factors")) as entries:
            kept = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries)
        excess = sum(size for _, size, _ in kept) + needed - self._most
        unused = [(size, path) for used, size, path in kept if used < self._began]
        if excess > sum(size for size, _ in unused):
            return False
        for size, path in unused:
            if excess > 0:
                excess -= size
                with suppress(OSError):
                    Path(path).unlink()
        return True

    def take_weights(self, key: str, target: Path) -> bool:
        """Put a copy of the merged checkpoint kept under a key into the new folder `target`; False where there is none.

        Nothing is left in `target` then.
        """

        def copy(data: bytes) -> bool:
            told = checksums.load(data)
            kept = self._place("weights", key)
            if told["key"] != key or set(told["files"]) != set(_files(kept)):
                raise ValueError("other files lie there than were remembered")
            if _copy(kept, target, told["files"]) != told["files"]:
                raise ValueError("its checksum does not match its content")
            return True

        if self.weights and self._get("weights", f"{key}/{_CHECKSUMS}", copy):
            return True
        shutil.rmtree(target, ignore_errors=True)
        return False

    def keep_weights(self, key: str, source: Path) -> None:
        """Remember a merged checkpoint, if weights are to be remembered."""
        if not self.weights or "written" in self._broken:
            return
        kept = self._place("weights", key)
        try:
            if (kept / _CHECKSUMS).exists():
                return
            with files.replacing_folder(kept) as partial:
                told = {"key": key, "files": _copy(source, partial, _files(source))}
                (partial / _CHECKSUMS).write_bytes(checksums.dump(told))
        except OSError as error:
            self._give_up("written", error)

    def _place(self, *parts: str) -> Path:
        assert self._folder is not None, "there is no cache"
        return self._folder.joinpath(*parts)

    def _get(self, kind: str, name: str, parse: Callable[[bytes], Kept]) -> Kept | None:
        """Return what `parse` makes of an entry; None where there is none, or one that cannot be read."""
        if self._folder is None or "read" in self._broken:
            return None
        path = self._place(kind, name)
        try:
            return parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up("read", error)
        except (ValueError, KeyError, TypeError, UserError):
            self._warn("damaged", f"{path} does not match its checksum: such entries are discarded and made again")
            with suppress(OSError):
                shutil.rmtree(path.parent) if kind == "weights" else path.unlink()
        return None

    def _put(self, kind: str, name: str, content: Callable[[], bytes]) -> None:
        if self._folder is None or "written" in self._broken:
            return
        try:
            files.write_bytes(self._place(kind, name), content())
        except OSError as error:
            self._give_up("written", error)

    def _give_up(self, what: str, error: OSError) -> None:
        """Go on without: the cache is there to save time, and is no part of any run."""
        self._broken.add(what)
        self._warn("broken", f"{self._folder}: the cache cannot be {what} ({error}); the run goes on without it")

    def _warn(self, kind: str, message: str) -> None:
        """Say it, once for each kind of trouble."""
        if kind not in self._warned:
            print(f"warning: {message}", file=sys.stderr)
        self._warned.add(kind)


def key_of(*parts: Any) -> str:
    """Return a digest of JSON-like parts and of the versions of the libraries that decide what comes out."""
    return hashlib.sha256(json.dumps([*parts, _versions()], sort_keys=True).encode()).hexdigest()


@functools.cache  # looked up in files, a hundredth of a second each
def _versions() -> dict[str, str]:
    return {library: version(library) for library in ("torch", "transformers", "mergekit", "lm-eval")}


def _files(folder: Path) -> list[str]:
    """Return the files of a checkpoint, those in folders of it too, by their paths within it."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != _CHECKSUMS)


def _copy(source: Path, target: Path, names: Iterable[str]) -> dict[str, str]:
    """Copy these files, and return the checksum of each copy."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        files.copy(source / name, target / name)
    return {name: checksums.of_file(target / name) for name in names}
