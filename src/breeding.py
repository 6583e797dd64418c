"""What is done with one candidate: it is merged, and scored, by whichever process is free.

A candidate is merged into the memory of the process that evaluates it; its weights reach the disk only if they may be
needed again. What was found is on disk as soon as it is known, whenever the journal comes to tell of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src import cache, digest, holdout, merge
from src.config import Settings
from src.errors import SpoiledError, UserError
from src.evaluate.evaluator import Evaluation, Evaluator
from src.journal import Offspring
from src.models.methods.lineage import from_founders
from src.weights import Born, Weights
from src.workers import Workers

Found = list[tuple[str, dict[str, Any]]]
"""What the journal is to tell of a candidate: events and their fields."""
Follow = Callable[[int, int], None]


class Breeding:
    """Makes and scores the candidates of a run."""

    def __init__(
        self,
        settings: Settings,
        weights: Weights,
        recipes: Mapping[str, Mapping[str, Any]],
        workers: Workers,
        memory: cache.Cache,
    ) -> None:
        """Work for the run of these settings.

        Args:
            settings: of the run.
            weights: of its models.
            recipes: of the offspring that were merged already; may grow.
            workers: the processes that share the work.
            memory: of evaluations across runs.
        """
        self._settings = settings
        self._weights = weights
        self._recipes = recipes
        self._workers = workers
        self._memory = memory

    @cached_property
    def evaluator(self) -> Evaluator:
        """The tasks of the run, loaded on first use."""
        return Evaluator(
            self._settings.evaluate,
            seed=self._settings.seed,
            devices=self._workers.devices,
            remote_code=self._settings.trust_remote_code,
        )

    def breed(self, one: Offspring, *, keep: bool, follow: Follow) -> Found:
        """Merge an offspring and score it; its weights are written if `keep`."""
        found: Found = []
        stage, began = "merge", time.monotonic()
        try:
            recipe = self._recipe(one)
            keep = keep and not self._workers.assisting
            with self._weights.born(one.name, recipe, keep=keep, disk=not self.evaluator.in_memory) as born:
                merged = {"recipe": recipe.as_dict(), "fingerprint": born.fingerprint}
                if one.name not in self._recipes:
                    found.append(("merged", {**merged, "cached": born.cached, "seconds": time.monotonic() - began}))
                stage = "evaluation"
                found.append(("evaluated", self._scored(one.name, born, follow)))
        except Exception as error:
            found.append(_failure(stage, error))
        return found

    def score(self, name: str, *, side: str, follow: Follow) -> Found:
        """Score a model that is on disk, on what steers the search or on what is held out (holdout.SIDES)."""
        try:
            checkpoint = self._weights.checkpoint(name)
            born = Born(checkpoint.path, None, checkpoint.fingerprint())
            return [("held_out" if side == "holdout" else "evaluated", self._scored(name, born, follow, side))]
        except Exception as error:
            event, fields = _failure("evaluation", error)
            return [("holdout_failed", {"reason": fields["reason"]}) if side == "holdout" else (event, fields)]

    def _recipe(self, one: Offspring) -> merge.Recipe:
        if one.name in self._recipes:
            return merge.Recipe(**self._recipes[one.name])
        planned = merge.recipe(
            self._settings.merge,
            one.parents,
            seed=self._settings.seed,
            threads=self._workers.threads,
            align=merge.align([self._weights.checkpoint(name) for name in one.parents]),
        )
        config = from_founders(planned.config, self._recipes)
        if config is planned.config:
            return planned
        donor = self._recipes[planned.donor]["donor"] if planned.donor in self._recipes else planned.donor
        return replace(planned, config=config, donor=donor)

    def _scored(self, name: str, born: Born, follow: Follow, side: str = "select") -> dict[str, Any]:
        began = time.monotonic()
        evaluator = self.evaluator.holdout if side == "holdout" else self.evaluator
        assert evaluator is not None
        key = cache.key(born.fingerprint, digest.of_surroundings(born.folder), evaluator.identity, self._settings.seed)
        file = holdout.place(self._settings.folder, name, side)
        kept = None
        if (evaluation := _saved(file, key)) is None:
            if (kept := self._memory.evaluation(key)) is not None:
                evaluation = Evaluation.from_dict(kept)
            else:
                evaluation = evaluator.evaluate(born.folder, born.tensors, follow, self._workers.share)
                self._memory.keep_evaluation(key, asdict(evaluation))
            evaluation.save(file, key)
        return {
            "scores": dict(evaluation.scores),
            "average": evaluation.average,
            "stderr": evaluation.stderr,
            "samples": evaluation.count,
            "metrics": dict(evaluation.metrics),
            "cached": kept is not None,
            "seconds": time.monotonic() - began,
        }


def _saved(file: Path, key: str) -> Evaluation | None:
    """The evaluation that an interrupted start had finished, if it is of the very same model and questions."""
    try:
        saved = json.loads(file.read_text())
        return Evaluation.from_dict(saved) if saved["key"] == key else None
    except (OSError, ValueError, KeyError):
        return None


def _failure(stage: str, error: Exception) -> tuple[str, dict[str, Any]]:
    """What the journal tells of a candidate that came to nothing; a user's mistake is no candidate's failure."""
    if isinstance(error, UserError):
        raise error
    if isinstance(error, SpoiledError):
        return "failed", {"stage": stage, "reason": str(error)}
    text = " ".join(str(error).split())[:300]
    return "failed", {"stage": stage, "reason": f"{stage}: {type(error).__name__}: {text}"}
