"""Weights that follow their gradient, look by look: a sequence that only its own past decides, and that can be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from src.learning.passes import Passes
from src.learning.samples import Division, Sample, in_parts
from src.strategy.recipe_gradient import Lesson, RecipeGradient


@dataclass(frozen=True)
class Look:
    """What was known after so many steps."""

    steps: int
    loss: float | None
    """On the samples that were learned from since the last look, their mean; None before the first step."""
    kept_back: float
    """On the samples that were kept back, weighted as in the average."""
    weights: list[list[float]] | None = None
    """[D, B], where no earlier look had a lower loss on what was kept back."""


@dataclass
class Course:
    """How far learning has come."""

    looks: list[Look] = field(default_factory=list)
    moments: dict[str, Any] = field(default_factory=dict)
    """Of the optimiser."""
    weights: list[list[float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Gradient steps so far; -1 before the first look."""
        return self.looks[-1].steps if self.looks else -1

    @property
    def best(self) -> Look:
        """The look with the lowest loss on what was kept back; the first of equals."""
        return min(self.looks, key=lambda one: one.kept_back)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, exact to the bit in JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Course:
        """Return what `as_dict` made plain data of."""
        return cls([Look(**one) for one in kept["looks"]], kept["moments"], kept["weights"])


class Training:
    """The lesson of a run, from look to look."""

    def __init__(self, lesson: Lesson, passes: Passes, division: Division, processes: int = 1) -> None:
        """Learn a lesson.

        Args:
            lesson: what, and how.
            passes: the model and its directions.
            division: the samples.
            processes: that can take a part of a batch each.
        """
        self._lesson, self._passes, self._division, self._processes = lesson, passes, division, processes

    def go_on(self, course: Course) -> Course:
        """Return the course one look further."""
        settings = self._lesson.settings
        if not course.looks:
            start = self._lesson.start
            return self._look(Course(weights=start.tolist()), start, 0, None)
        weights = torch.tensor(course.weights, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([{"params": [weights], "initial_lr": settings.rate}], lr=settings.rate)
        if course.moments:
            optimiser.state[weights] = _moments(course)
        schedule = scheduled(settings, optimiser, course.steps)
        batches = islice(self._division.batches(settings.batch, settings.seed), course.steps, None)
        steps = min(settings.steps, settings.total - course.steps)
        spent = []
        for batch in islice(batches, steps):
            loss, gradient = self._gradient(weights.detach().numpy(), batch)
            weights.grad = torch.from_numpy(gradient + self._pull(weights.detach().numpy()))
            optimiser.step()
            schedule.step()
            spent.append(loss)
        state = optimiser.state[weights]
        moments = {name: value.tolist() for name, value in sorted(state.items())}
        now = Course(list(course.looks), moments, weights.tolist())
        return self._look(now, weights.detach().numpy(), course.steps + steps, float(np.mean(spent)))

    def _gradient(self, weights: np.ndarray, batch: Sequence[Sample]) -> tuple[float, np.ndarray]:
        """Return the mean loss of a batch and its derivatives [D, B]."""
        size = self._lesson.settings.at_once or math.ceil(len(batch) / self._processes)
        parts = [[(one, 1 / len(batch)) for one in part] for part in in_parts(batch, size)]
        found, derivatives = zip(*self._passes.gradients("loss", weights, parts), strict=True)
        return sum(found), sum(derivatives[1:], derivatives[0])

    def _pull(self, weights: np.ndarray) -> np.ndarray:
        """Return the derivative of prior · Σ_b (c − c₀)ᵀ G_b (c − c₀)."""
        moved = weights - self._lesson.start
        return 2 * self._lesson.settings.prior * np.einsum("bij,jb->ib", self._lesson.metric, moved)

    def _look(self, course: Course, weights: np.ndarray, steps: int, loss: float | None) -> Course:
        ask = partial(self._passes.losses, weights)
        kept = self._division.kept_back_loss(ask, self._lesson.settings.at_once)
        best = min((one.kept_back for one in course.looks), default=np.inf)
        course.looks.append(Look(steps, loss, kept, weights.tolist() if kept < best else None))
        return course


def _moments(course: Course) -> dict[str, torch.Tensor]:
    """Return Adam's averages [D, B] as float64, and its count of steps as torch keeps it."""
    exact = {name: torch.float32 if name == "step" else torch.float64 for name in course.moments}
    return {name: torch.tensor(value, dtype=exact[name]) for name, value in course.moments.items()}


def scheduled(settings: RecipeGradient, optimiser: torch.optim.Optimizer, steps: int) -> Any:
    """Return the schedule of an optimiser's rate after so many steps, each of whose groups has an `initial_lr`."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    where = {"last_epoch": steps - 1}  # torch counts the step that it makes on construction
    return get_scheduler(name, optimiser, settings.warmup, settings.total, scheduler_specific_kwargs=where)
