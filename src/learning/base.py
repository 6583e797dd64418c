"""What learners and differentiators have in common: the run they work for, its processes, and the room that is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.config import Settings
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.journal import State
from src.learning.gradient import Room, Stored, WeightedSum
from src.learning.passes import Passes
from src.learning.samples import Sample, Targets, by_question
from src.models.store import Store
from src.runtime.workers import Workers


class ByGradient:
    """Follows gradients for a run, and knows what the journal is to tell of it."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        store: Store,
        evaluator: Callable[[], Evaluator],
        workers: Workers,
    ) -> None:
        """Work for the run of these settings.

        Args:
            settings: of the run.
            state: what is known by now.
            store: the weights of its models.
            evaluator: returns the evaluator of what steers the search.
            workers: the processes of the run, which assist.
        """
        self._settings, self._state, self._store = settings, state, store
        self._evaluator, self._workers = evaluator, workers
        self._assisted: Passes | None = None
        self.event: tuple[str, dict[str, Any]] | None = None
        """What the journal is to tell of the last work, an event and its fields; None where it knows."""

    def assist(self, order: Mapping[str, Any] | None) -> Callable[[int], Any]:
        """Return what does a part of an order that the main process handed out (`runtime.workers.Assist`)."""
        if order is None or "directions" in order:
            self._assisted = self._passes(order) if order else None
            return lambda number: None  # an opening has no parts, and neither has the end
        assert self._assisted is not None
        return self._assisted.piece(order)

    def _opened(self, directions: Sequence[str], blocks: Mapping[str, int], targets: Targets | None = None) -> Passes:
        """Return what goes through the model for a lesson, whose opening every process is told.

        Args:
            directions: their names.
            blocks: the block of every tensor by name.
            targets: as `Lesson` has them.
        """
        for name in directions:
            self._store.checkpoint(name)  # made again here, if it has to be
        listed = None if targets is None else [[*question, target] for question, target in targets.items()]
        opening = {"directions": list(directions), "blocks": dict(blocks), "targets": listed}
        self._workers.hand_out(opening, 0, lambda number: None)
        return self._passes(opening)

    def _passes(self, opening: Mapping[str, Any]) -> Passes:
        folders = [self._store.checkpoint(name).path for name in ("base", *opening["directions"])]
        devices, sharing = self._workers.devices, self._settings.workers.processes_per_gpu
        room = Room(devices[0] if len(devices) == 1 else "cpu", 1 / sharing)
        base, *others = (Stored(folder, room) for folder in folders)
        model = self._evaluator().model(folders[1])  # before its samples: the template is its own
        total = WeightedSum(base, others, opening["blocks"])
        listed = opening["targets"]
        targets = None if listed is None else {(task, document): target for task, document, target in listed}
        samples, lean = self._samples(targets), self._recomputes(model)
        workers = self._workers
        return Passes(model, total, by_question(samples), lean, room, workers.hand_out, workers.pulse)

    def _samples(self, targets: Targets | None) -> Sequence[Sample]:
        """Return the samples that a lesson is about."""
        raise NotImplementedError

    def _recomputes(self, model: ReusableModel) -> bool:
        """Return whether a model's activations are computed again instead of kept."""
        raise NotImplementedError

    def _room(self) -> float:
        """Return how many samples may still go through the model, so that a candidate can be evaluated afterwards."""
        stop, state, one = self._settings.stop, self._state, self._state.per_evaluation
        left = [
            math.inf if stop.evaluations is None else (stop.evaluations - state.evaluations - state.learning) * one,
            math.inf if stop.samples is None else stop.samples - state.samples,
        ]
        return min(left) - one
