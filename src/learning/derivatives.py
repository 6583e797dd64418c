"""Derivatives of scores by the weights of a recipe: one pass forwards and back over the samples that have choices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from src.evaluation.model import ReusableModel
from src.learning.base import ByGradient
from src.learning.samples import AT_ONCE, Sample, choices, losses
from src.learning.training import recomputed
from src.population import Derivatives
from src.runtime.errors import UserError
from src.strategy.recipe_search import Place
from src.surrogate.questions import Questions


class Differentiator(ByGradient):
    """Takes derivatives for a run."""

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
        if 3 * len(choices(evaluator)) > self._room():
            return None
        model, total = self._loaded(place.directions, place.blocks)
        total.check(model.model)
        total.write(model.model, place.weights)
        by_task = _by_task(place.questions, choices(evaluator))  # after the model: the template is its own
        with recomputed(model.model, getattr(model.model, "supports_gradient_checkpointing", False)):
            values = [
                total.gradient(model.model, place.weights.shape[1], partial(self._score, model, mine))[1].tolist()
                for mine in by_task.values()
            ]
        count = sum(map(len, by_task.values()))
        fields = {
            "generation": self._state.population.generation + 1,
            "model": place.model,
            "forward": count,
            "back": count,
            "directions": list(place.directions),
            "tasks": [*by_task],
            "values": values,
            "seconds": time.monotonic() - began,
        }
        self.event = "differentiated", fields
        return Derivatives(place.model, place.directions, tuple(by_task), np.array(values))

    def _score(self, model: ReusableModel, asked: Sequence[tuple[Sample, float]]) -> Iterator[torch.Tensor]:
        """Yield the parts of a task's smooth score: samples' probabilities of the right choice, by their weights."""
        for first in range(0, len(asked), AT_ONCE):
            self._pulse()
            some, weights = zip(*asked[first : first + AT_ONCE], strict=True)
            right = torch.exp(-losses(model, some))
            yield right @ torch.tensor(weights, dtype=right.dtype, device=right.device)


def _by_task(questions: Questions, known: Sequence[Sample]) -> dict[str, list[tuple[Sample, float]]]:
    """Return the samples with choices of every task that has any, and what each counts in the task's score."""
    samples = {(one.task, one.document): one for one in known}
    found: dict[str, list[tuple[Sample, float]]] = {}
    for key, task, weight in zip(questions.ids, questions.task, questions.weight, strict=True):
        if key in samples:
            found.setdefault(questions.tasks[task], []).append((samples[key], float(weight)))
    return found
