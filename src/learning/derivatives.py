"""Derivatives of scores by the weights of a recipe: one pass forwards and back over the samples that have choices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from src.config import Settings
from src.evaluation.evaluator import Evaluator
from src.journal import State
from src.learning.gradient import Stored, WeightedSum
from src.learning.lessons import room
from src.learning.samples import AT_ONCE, Sample, choices, losses
from src.learning.training import recomputed
from src.models.store import Store
from src.population import Derivatives
from src.runtime.errors import UserError
from src.strategy.recipe_search import Place


class Differentiator:
    """Takes derivatives for a run, and knows what the journal is to tell of them."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        store: Store,
        evaluator: Callable[[], Evaluator],
        pulse: Callable[[], None],
    ) -> None:
        """Take derivatives for the run of these settings; arguments as those of `src.learning.lessons.Learner`."""
        self._settings, self._state, self._store = settings, state, store
        self._evaluator, self._pulse = evaluator, pulse
        self.event: tuple[str, dict[str, Any]] | None = None
        """What the journal is to tell; None where nothing was done that it did not know."""

    def check(self) -> None:
        """Refuse tasks that there are no derivatives for.

        Raises:
            UserError: none has choices of which its metric takes the likeliest.
        """
        if not choices(self._evaluator()):
            raise UserError(
                "strategy.derivatives=true takes derivatives of the probability of the right choice, and no task of "
                "evaluate.tasks has choices of which its metric takes the likeliest; set it to false"
            )

    def learn(self, place: Place) -> Derivatives | None:
        """Return derivatives at a place, as `strategy.recipe_search.Differentiator` describes."""
        began, evaluator = time.monotonic(), self._evaluator()
        folders = [self._store.checkpoint(name).path for name in ("base", *place.directions)]
        model = evaluator.model(folders[1])  # before its samples: the template is its own
        found = {(one.task, one.document): one for one in choices(evaluator)}
        if 3 * len(found) > room(self._settings, self._state):
            return None
        base, *directions = map(Stored, folders)
        total = WeightedSum(base, directions, place.blocks)
        total.check(model.model)
        total.write(model.model, place.weights)
        asked, tasks, values = place.questions, [], []
        for number, task in enumerate(asked.tasks):
            mine = [
                (found[key], float(weight))
                for key, weight, of in zip(asked.ids, asked.weight, asked.task, strict=True)
                if of == number and key in found
            ]
            if mine:

                def score(mine: list[tuple[Sample, float]] = mine) -> Iterator[torch.Tensor]:
                    for first in range(0, len(mine), AT_ONCE):
                        self._pulse()
                        some, weights = zip(*mine[first : first + AT_ONCE], strict=True)
                        right = torch.exp(-losses(model, some))
                        yield right @ torch.tensor(weights, dtype=right.dtype, device=right.device)

                with recomputed(model.model, getattr(model.model, "supports_gradient_checkpointing", False)):
                    _, slopes = total.gradient(model.model, place.weights.shape[1], score)
                tasks.append(task)
                values.append(slopes.tolist())
        fields = {
            "generation": self._state.population.generation + 1,
            "model": place.model,
            "forward": len(found),
            "back": len(found),
            "directions": list(place.directions),
            "tasks": tasks,
            "values": values,
            "seconds": time.monotonic() - began,
        }
        self.event = "differentiated", fields
        return Derivatives(place.model, place.directions, tuple(tasks), np.array(values))
