"""What learners and differentiators have in common: the run they work for, and the room that its budget leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.config import Settings
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.journal import State
from src.learning.gradient import Stored, WeightedSum
from src.models.store import Store


class ByGradient:
    """Follows gradients for a run, and knows what the journal is to tell of it."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        store: Store,
        evaluator: Callable[[], Evaluator],
        pulse: Callable[[], None],
    ) -> None:
        """Work for the run of these settings.

        Args:
            settings: of the run.
            state: what is known by now.
            store: the weights of its models.
            evaluator: returns the evaluator of what steers the search.
            pulse: is called as work goes on.
        """
        self._settings, self._state, self._store = settings, state, store
        self._evaluator, self._pulse = evaluator, pulse
        self.event: tuple[str, dict[str, Any]] | None = None
        """What the journal is to tell of the last work, an event and its fields; None where it knows."""

    def _loaded(self, directions: Sequence[str], blocks: Mapping[str, int]) -> tuple[ReusableModel, WeightedSum]:
        """Return a loaded model, and the sum of directions by block that can be written into it."""
        folders = [self._store.checkpoint(name).path for name in ("base", *directions)]
        base, *others = map(Stored, folders)
        return self._evaluator().model(folders[1]), WeightedSum(base, others, blocks)

    def _room(self) -> float:
        """Return how many samples may still go through the model, so that a candidate can be evaluated afterwards."""
        stop, state, one = self._settings.stop, self._state, self._state.per_evaluation
        left = [
            math.inf if stop.evaluations is None else (stop.evaluations - state.evaluations - state.learning) * one,
            math.inf if stop.samples is None else stop.samples - state.samples,
        ]
        return min(left) - one
