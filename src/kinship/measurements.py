"""The inner products of a run's models: stored beside the journal, and extended by new models, by all processes."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.kinship import METRICS, Grams, kinship_matrix, measure, predicted_kinship
from src.kinship.measuring import device_of
from src.models.checkpoint import Checkpoint
from src.runtime import progress
from src.runtime.cache import Cache, key_of
from src.runtime.errors import UserError, persistently
from src.runtime.workers import Workers

Kinship = dict[str, list[tuple[str, str, float]]]
"""Of each metric, its value for pairs of models."""
_SUMS = 2
"""Part of the cache's key; it counts whenever the same weights come to have other sums, be it in their last bits."""


@dataclass(frozen=True)
class Cost:
    """What a measurement took."""

    cached: bool
    """Known from another run."""
    seconds: float


class Measurements:
    """How related the models of one run are.

    Attributes:
        grams: what was measured so far; None before the founders were.
    """

    def __init__(self, folder: Path, base: Checkpoint, workers: Workers, cache: Cache) -> None:
        """Measure against `base`, and keep what is found in the run's `folder` and, across runs, in `cache`."""
        self._path = folder / "kinship.npz"
        self._base = base
        self._workers = workers
        self._cache = cache
        self.grams: Grams | None = None

    def load(self, measured: set[str]) -> None:
        """Read what an earlier start stored of these models, and forget the rest: it will be measured again."""
        if measured and self._path.is_file():
            stored = Grams.load(self._path)
            self.grams = stored.of([name for name in stored.names if name in measured])

    def extend(self, models: Mapping[str, Checkpoint], fingerprints: Mapping[str, str]) -> Cost:
        """Measure the new ones of these models against all of them, by all processes, each some of the tensors.

        Args:
            models: that are on disk, by name.
            fingerprints: of the base and of every model that was ever measured, by name.

        Raises:
            UserError: as `measure`, in every process.
        """
        began = time.monotonic()
        earlier = dict.fromkeys(self.grams.names if self.grams else ())
        names = (*earlier, *(name for name in models if name not in earlier))
        prints = [fingerprints[name] for name in ("base", *names)]
        key = key_of(prints, [name in models for name in names], len(earlier), _SUMS)
        topic = f"kinship {key}"
        if cached := self._workers.in_main(f"{topic} cached", lambda: self._take_cached(key, names)):
            self.grams = Grams.load(self._path)
        else:
            self.grams = self._measure(models, topic)
            if self._workers.main:
                self._cache.keep_kinship(key, partial(_content, self.grams))
                self._save(self.grams)
        return Cost(cached, self._workers.in_main(f"{topic} seconds", lambda: time.monotonic() - began))

    def _measure(self, models: Mapping[str, Checkpoint], topic: str) -> Grams:
        several = self._workers.processes > 1
        with progress.bar("measuring kinship", unit="byte") as bar:
            return measure(
                self._base,
                models,
                known=self.grams,
                device=device_of(self._workers.devices[0]),
                progress=progress.whole(bar),
                share=(lambda name, job, items: self._workers.map(f"{topic} {name}", job, items)) if several else None,
            )

    def _take_cached(self, key: str, names: tuple[str, ...]) -> bool:
        """Put what another run measured into this one's folder, under this one's names; False if it did not."""
        found = self._cache.kinship(key, lambda data: replace(Grams.read(io.BytesIO(data)), names=names))
        if found is None:
            return False
        self._save(found)
        return True

    def _save(self, grams: Grams) -> None:
        persistently(lambda: grams.save(self._path), self._path)

    def faults(self, models: Mapping[str, Checkpoint]) -> dict[str, str]:
        """Return why a model cannot be measured, by name, for those of these that cannot."""
        found = {}
        for name, checkpoint in models.items():
            try:
                measure(self._base, {name: checkpoint})
            except UserError as error:
                found[name] = str(error)
        return found

    def pairs(self, new: Iterable[str]) -> Kinship:
        """Return the kinship of every pair with one of these models in it, under every metric."""
        grams, fresh = self._known(), set(new)
        return {metric: _pairs(grams.names, kinship_matrix(grams, metric), fresh) for metric in METRICS}

    def predicted(self, config: Mapping[str, Any], metric: str) -> Mapping[str, float] | None:
        """Return the kinship of a planned offspring to every model; None where the merge method does not allow it."""
        return predicted_kinship(self._known(), config, metric)

    def _known(self) -> Grams:
        assert self.grams is not None, "kinship is asked for before the founders were measured"
        return self.grams


def _pairs(names: Sequence[str], matrix: np.ndarray, fresh: set[str]) -> list[tuple[str, str, float]]:
    """Return the known pairs with a fresh model in them, ordered by the later model's place, then the earlier one's."""
    new = np.array([name in fresh for name in names])
    wanted = np.tril((new[:, None] | new) & ~np.isnan(matrix), -1)
    values = zip(*np.nonzero(wanted), matrix[wanted].tolist(), strict=True)
    return [(names[earlier], names[later], value) for later, earlier, value in values]


def _content(grams: Grams) -> bytes:
    grams.write(buffer := io.BytesIO())
    return buffer.getvalue()
