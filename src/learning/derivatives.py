"""Derivatives of scores by the weights of a recipe: one pass forwards and back over the samples that have choices."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from src.evaluation.model import ReusableModel
from src.learning.base import ByGradient
from src.learning.samples import AT_ONCE, Sample, Targets, choices, in_parts
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
        passes = self._opened(place.directions, place.blocks)
        by_task = _by_task(place.questions, passes.samples)
        parts = [(name, part) for name, mine in by_task.items() for part in in_parts(mine, AT_ONCE)]
        found = passes.gradients("chance", place.weights, [part for _, part in parts])
        values = {name: np.zeros_like(place.weights) for name in by_task}
        for (name, _), (_, derivatives) in zip(parts, found, strict=True):
            values[name] += derivatives
        count = sum(map(len, by_task.values()))
        fields = {
            "generation": self._state.population.generation + 1,
            "model": place.model,
            "forward": count,
            "back": count,
            "directions": list(place.directions),
            "tasks": [*by_task],
            "values": [one.tolist() for one in values.values()],
            "seconds": time.monotonic() - began,
        }
        self.event = "differentiated", fields
        return Derivatives(place.model, place.directions, tuple(by_task), np.array(list(values.values())))

    def _samples(self, targets: Targets | None) -> Sequence[Sample]:
        return choices(self._evaluator())

    def _recomputes(self, model: ReusableModel) -> bool:
        return getattr(model.model, "supports_gradient_checkpointing", False)


def _by_task(questions: Questions, samples: Mapping[tuple[str, int], Sample]) -> dict[str, list[tuple[Sample, float]]]:
    """Return the samples with choices of every task that has any, and what each counts in the task's score."""
    found: dict[str, list[tuple[Sample, float]]] = {}
    for key, task, weight in zip(questions.ids, questions.task, questions.weight, strict=True):
        if key in samples:
            found.setdefault(questions.tasks[task], []).append((samples[key], float(weight)))
    return found
