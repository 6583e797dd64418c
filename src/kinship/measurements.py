"""The inner products of a run's models: stored beside the journal, extended by what is born, by all processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.kinship import METRICS, Grams, kinship_matrix, measure, predicted_kinship
from src.models.checkpoint import Checkpoint
from src.runtime import cache, progress
from src.runtime.errors import UserError, persistently
from src.runtime.workers import Workers

Kinship = dict[str, list[tuple[str, str, float]]]
"""Of each metric, its value for pairs of models."""


class Relating:
    """How related the models of one run are.

    Attributes:
        grams: what was measured so far; None before the founders were.
    """

    def __init__(self, folder: Path, base: Checkpoint, workers: Workers, memory: cache.Cache) -> None:
        """Measure against `base`, keep what was found in the run's `folder`, and across runs in `memory`."""
        self._path = folder / "kinship.npz"
        self._base = base
        self._workers = workers
        self._memory = memory
        self.grams: Grams | None = None

    def take_up(self, measured: set[str]) -> None:
        """Read what an earlier start stored of these models, and forget the rest: it will be measured again."""
        if measured and self._path.is_file():
            stored = Grams.load(self._path)
            self.grams = stored.of([name for name in stored.names if name in measured])

    def extend(self, models: Mapping[str, Checkpoint], fingerprints: Mapping[str, str]) -> bool:
        """Measure whoever is new among these, to all of them. All processes do it together, each some of the tensors.

        Whether it was known from another run.

        Raises:
            UserError: as `measure`, in every process.
        """
        known = self.grams
        earlier = dict.fromkeys(known.names if known else ())
        names = (*earlier, *(name for name in models if name not in earlier))
        key = cache.key(
            [fingerprints[name] for name in ("base", *names)], [name in models for name in names], len(earlier)
        )
        if self._workers.once(lambda: self._remembered(key, names)):
            self.grams = Grams.load(self._path)
            return True
        with progress.bar("measuring kinship", unit="byte") as bar:
            self.grams = measure(
                self._base,
                models,
                known=known,
                device=self._workers.devices[0],
                progress=progress.whole(bar),
                share=self._workers.map if self._workers.processes > 1 else None,
            )
        if self._workers.main:
            self._memory.keep_grams(key, self.grams)
            self._save(self.grams)
        return False

    def _remembered(self, key: str, names: tuple[str, ...]) -> bool:
        """Whether the inner products were known from another run, and lie in this one's folder now."""
        kept = self._memory.grams(key, names)
        if kept is not None:
            self._save(kept)
        return kept is not None

    def _save(self, grams: Grams) -> None:
        persistently(lambda: grams.save(self._path), self._path)

    def blame(self, offspring: Mapping[str, Checkpoint]) -> dict[str, str]:
        """Who of these cannot be measured, and why."""
        guilty = {}
        for name, checkpoint in offspring.items():
            try:
                measure(self._base, {name: checkpoint})
            except UserError as own:
                guilty[name] = str(own)
        return guilty

    def kinship(self, new: Iterable[str]) -> Kinship:
        """Of every pair with one of these models in it."""
        fresh = set(new)
        return {metric: list(self._pairs(metric, fresh)) for metric in METRICS}

    def predicted(self, config: Mapping[str, Any], metric: str) -> Mapping[str, float] | None:
        """Kinship to everybody of an offspring that is only planned; None where the method does not allow to tell."""
        assert self.grams is not None, "kinship is asked for before the founders were measured"
        return predicted_kinship(self.grams, config, metric)

    def _pairs(self, metric: str, fresh: set[str]) -> Iterator[tuple[str, str, float]]:
        assert self.grams is not None, "kinship is asked for before the founders were measured"
        matrix, names = kinship_matrix(self.grams, metric), self.grams.names
        new = [i for i, name in enumerate(names) if name in fresh]
        for i in range(min(new, default=len(names)), len(names)):
            for j in range(i) if names[i] in fresh else itertools.takewhile(i.__gt__, new):
                if matrix[i, j] == matrix[i, j]:
                    yield names[j], names[i], float(matrix[i, j])
