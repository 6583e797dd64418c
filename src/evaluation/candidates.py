"""One candidate merged and evaluated, by whichever process is free.

A candidate is merged into the memory of the process that evaluates it; its weights reach the disk only if they may be
needed again. What was found is on disk as soon as it is known, whenever the journal comes to tell of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from src.config import Settings
from src.evaluation import holdout, responses
from src.evaluation.base import BaseEvaluator, Evaluation
from src.evaluation.evaluator import Evaluator
from src.journal import State
from src.models import digest, merging
from src.models.methods.lineage import composed
from src.models.store import Candidate, Store
from src.population import Model
from src.runtime import checksums, files, plugins
from src.runtime.cache import Cache, key_of
from src.runtime.errors import SpoiledError, UserError, machine_fault, persistently, printable
from src.runtime.workers import Workers
from src.surrogate.questions import Answers

Found = list[tuple[str, dict[str, Any]]]
"""What the journal is to tell of a candidate: events and their fields."""
Follow = Callable[[int, int], None]
Tell = Callable[..., None]
"""Writes an event and its fields into the journal."""


class Candidates:
    """Merges and evaluates the candidates of a run."""

    def __init__(self, settings: Settings, state: State, store: Store, workers: Workers, cache: Cache) -> None:
        """Work for the run of these settings, of whose models `state` says what is known by now."""
        self._settings = settings
        self._state = state
        self._store = store
        self._workers = workers
        self._cache = cache
        self._wants_answers = getattr(settings.strategy, "needs_answers", False)
        self.answers = holdout.Answered(settings.folder, state)

    @cached_property
    def evaluator(self) -> BaseEvaluator:
        """The questions of the run, loaded on first use."""
        own = self._settings.evaluate.evaluator
        kind: type[BaseEvaluator] = Evaluator if own is None else plugins.load_class(own, BaseEvaluator)
        return kind(
            self._settings.evaluate,
            seed=self._settings.seed,
            devices=self._workers.devices,
            remote_code=self._settings.trust_remote_code,
        )

    @property
    def lm_evaluator(self) -> Evaluator:
        """The questions, of which this is sure to be lm-eval's way of asking them."""
        assert isinstance(self.evaluator, Evaluator), "settings refuse others where this is needed"
        return self.evaluator

    @property
    def questions(self) -> dict[str, str]:
        """A digest of what is asked on each side."""
        sides = {"evaluate.tasks": self.evaluator, "evaluate.holdout": self.evaluator.holdout}
        return {f"what {key} asks": side.identity[:12] for key, side in sides.items() if side is not None}

    def merge_and_evaluate(self, name: str, *, keep: bool, follow: Follow, tell: Tell | None = None) -> Found:
        """Merge an offspring in memory and evaluate it.

        Args:
            name: of the offspring; its recipe is taken up if it was merged already.
            keep: whether its weights are written and stay.
            follow: is told how many of its questions are answered, and of how many.
            tell: hears of the merge as soon as it is finished; without it, what is returned says so.
        """
        found: Found = []
        stage = "merge"
        try:
            model = self._state.model(name)
            recipe = self._recipe(model)
            keep = keep and not self._workers.assisting
            with self._store.merged(name, recipe, keep=keep, disk=not self.evaluator.in_memory) as candidate:
                if model.recipe is None:
                    merged: dict[str, Any] = {"recipe": recipe.as_dict(), "fingerprint": candidate.fingerprint}
                    merged |= {"cached": candidate.cached, "seconds": candidate.seconds}
                    if tell is None:
                        found.append(("merged", merged))
                    else:
                        tell("merged", model=name, **merged)
                stage = "evaluation"
                found.append(("evaluated", self._scored(name, candidate, follow)))
        except Exception as error:
            found.append(_failure(stage, error))
        return found

    def evaluate(self, name: str, *, side: str, follow: Follow, whole: bool = False) -> Found:
        """Evaluate a model that is on disk, or `base`, on one of holdout.SIDES; `follow` as in `merge_and_evaluate`.

        `whole` asks an offspring all that steers the search, where it would be asked a part (`evaluate.share`).
        """
        try:
            checkpoint = self._store.checkpoint(name)
            candidate = Candidate(checkpoint.path, None, checkpoint.fingerprint())
            scored = self._scored(name, candidate, follow, side, whole=whole)
            return [("held_out" if side == "holdout" else "evaluated", scored)]
        except Exception as error:
            event, fields = _failure("evaluation", error)
            return [("holdout_failed", {"reason": fields["reason"]}) if side == "holdout" else (event, fields)]

    def _recipe(self, model: Model) -> merging.Recipe:
        if model.recipe is not None:
            return merging.Recipe(**model.recipe)
        planned = merging.recipe(
            self._settings.merge,
            model.parents,
            seed=self._settings.seed,
            threads=self._workers.threads,
            own=model.merge,
            align=merging.align([self._store.checkpoint(name) for name in model.parents]),
            stored=self._store.checkpoint(model.parents[0]).dtype,
        )
        recipes = {name: found for name in model.parents if (found := self._state.model(name).recipe) is not None}
        return composed(planned, recipes)

    def _scored(
        self, name: str, candidate: Candidate, follow: Follow, side: str = "select", *, whole: bool = False
    ) -> dict[str, Any]:
        began = time.monotonic()
        part = self._part(name) if side == "select" and not whole else None
        evaluator = self.evaluator.holdout if side == "holdout" else self.evaluator
        assert evaluator is not None
        if part is not None:
            evaluator = evaluator.part(part)
        key = key_of_evaluation(evaluator, candidate, self._settings.seed)
        file = holdout.place(self._settings.folder, name, side, part)
        wanted = self._wants_answers and side == "select"
        evaluation, cached = _saved(file, key), False
        if evaluation is None or (wanted and not _has_answers(file, key)):
            evaluation = self._remembered(file, key, wanted)
            cached = evaluation is not None
            if evaluation is None:
                evaluation = evaluator.evaluate(candidate.folder, candidate.tensors, follow, self._workers.share)
                self._keep_answers(evaluation, file, key)
                self._cache.keep_evaluation(key, evaluation.as_dict())
            persistently(partial(evaluation.save, file, key), file)
        return {
            "scores": dict(evaluation.scores),
            "average": evaluation.average,
            "stderr": evaluation.stderr,
            "stderrs": evaluation.stderrs,
            "samples": evaluation.count,
            "metrics": dict(evaluation.metrics),
            "cached": cached,
            **({"cut_off": evaluation.as_dict()["cut_off"]} if evaluation.cut_off else {}),
            **({} if part is None else {"part": part, "parts": self._settings.evaluate.parts}),
            "seconds": time.monotonic() - began,
        }

    def _part(self, name: str) -> int | None:
        """Return which part of the samples a model is asked, or was, as the journal has it; None: all of them."""
        model, parts = self._state.model(name), self._settings.evaluate.parts
        if parts == 1 or model.founder or model.whole or model.average is not None:
            return model.part
        offspring = [model.name for model in self._state.models.values() if not model.founder]
        return offspring.index(name) % parts

    def _remembered(self, file: Path, key: str, wanted: bool) -> Evaluation | None:
        """Return the evaluation that is known from other runs; its answers, if they are known, are put in place."""
        evaluation = self._cache.evaluation(key, Evaluation.from_dict)
        if evaluation is not None and (content := self._cache.answers(key)) is not None:
            beside = file.with_suffix(".npz")
            persistently(partial(files.write_bytes, beside, content), beside)
        return None if wanted and not _has_answers(file, key) else evaluation

    def _keep_answers(self, evaluation: Evaluation, file: Path, key: str) -> None:
        """Keep the answers of an evaluation, before the evaluation itself: it never lies there without them."""
        found, beside = evaluation.answers or responses.from_samples(evaluation), file.with_suffix(".npz")

        def save() -> None:
            with files.replacing(beside) as partial_file:
                found.save(partial_file, key)

        persistently(save, beside)
        self._cache.keep_answers(key, beside.read_bytes)


def key_of_evaluation(evaluator: BaseEvaluator, candidate: Candidate, seed: int) -> str:
    """Return a digest of all that an evaluation depends on: what it is remembered by."""
    return key_of(candidate.fingerprint, digest.of_surroundings(candidate.folder), evaluator.identity, seed)


def _has_answers(file: Path, key: str) -> bool:
    """Return whether the answers of an evaluation lie beside its scores."""
    try:
        Answers.load(file.with_suffix(".npz"), key=key)
    except (OSError, ValueError):
        return False
    return True


def _saved(file: Path, key: str) -> Evaluation | None:
    """Return the evaluation that an interrupted start had finished, if it is of the very same model and questions."""
    try:
        saved = checksums.load(file.read_bytes())
        return Evaluation.from_dict(saved) if saved["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0]
        print(f"warning: {file}: {why}; it is discarded and the model scored again", file=sys.stderr)
        return None


def _failure(stage: str, error: Exception) -> tuple[str, dict[str, Any]]:
    """Return what the journal tells of a candidate that came to nothing.

    A user's mistake or the machine's is not its own.
    """
    if isinstance(error, UserError) or machine_fault(error) is not None:
        raise error
    if isinstance(error, SpoiledError):
        return "failed", {"stage": stage, "reason": str(error)}
    text = printable(" ".join(str(error).split())[:300])
    return "failed", {"stage": stage, "reason": f"{stage}: {type(error).__name__}: {text}"}
