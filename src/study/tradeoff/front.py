"""The predicted front: for a weighting of the tasks the recipe of which most is expected, and what that is, by task.

Nothing is evaluated: a recipe is looked for within the trust region around the evaluated model that is best under the
weighting, by what is expected alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from src.evaluation.predicted import problem
from src.journal import State, events_of, replay
from src.kinship import Grams
from src.population import Model, Prediction, Proposal
from src.runtime.errors import UserError
from src.strategy import strategy_of
from src.strategy.problem import Problem
from src.strategy.recipes import DIGITS, weighted
from src.surrogate import objectives, proposals
from src.surrogate.objectives import Objective

STEPS = 9
"""Of the front between two tasks."""
AVERAGE, WORST = "average", "worst"
"""What a weighting is called under which the run's own weights count, or the lowest score alone."""


@dataclass(frozen=True, eq=False)
class Point:
    """A recipe that is best under a weighting, with what is expected of it, in points."""

    label: str
    """Of the weighting, as `--weight` takes it."""
    recipe: np.ndarray
    """float64 [n, B], rounded as it is made."""
    average: Prediction
    """Under the run's own weights."""
    worst: Prediction
    tasks: Mapping[str, Prediction]


@dataclass(frozen=True, eq=False)
class Front:
    """A run, and what its answers predict."""

    name: str
    state: State
    problem: Problem

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of the run."""
        return self.problem.questions.tasks

    @property
    def winner(self) -> Model:
        """The best model that was evaluated."""
        return self.state.population.best(1)[0]

    @cached_property
    def own(self) -> dict[str, float]:
        """The weight of each task in the run's average."""
        return {task: self.state.population.weights.get(task, 1.0) for task in self.tasks}

    def points(self, wanted: Mapping[str, Objective]) -> list[Point]:
        """Return for each objective the recipe of which most is expected, and what that is; by the name given to it."""
        best = [self._best(objective) for objective in wanted.values()]
        return self.judged(list(wanted), np.stack(best).round(DIGITS)) if best else []

    def judged(self, labels: Sequence[str], recipes: np.ndarray) -> list[Point]:
        """Return what is expected of recipes [M, n, B]."""
        process, scorer, every = self.problem.process, self.problem.scorer, torch.from_numpy(recipes)

        def judge(objective: Objective) -> list[Prediction]:
            found = proposals.judge(process, scorer, objective, every)
            return [Prediction(100 * one.expected, 100 * one.low, 100 * one.high) for one in found]

        average, worst = judge(self.weighting(self.own)), judge(objectives.worst())
        alone = {task: judge(self.weighting({task: 1.0})) for task in self.tasks}
        return [
            Point(label, recipes[row], average[row], worst[row], {task: found[row] for task, found in alone.items()})
            for row, label in enumerate(labels)
        ]

    def weighting(self, weights: Mapping[str, float]) -> Objective:
        """Return the mean over tasks with these weights, 0 where none is given."""
        return objectives.average([weights.get(task, 0.0) for task in self.tasks])

    @property
    def general(self) -> dict[str, Objective]:
        """The average with the run's own weights, and the worst task."""
        return {AVERAGE: self.weighting(self.own), WORST: objectives.worst()}

    @property
    def emphasised(self) -> dict[str, Objective]:
        """For each task the weighting in which it counts as much as all others together."""
        others = {task: sum(self.own.values()) - weight for task, weight in self.own.items()}
        return dict(self.asked({task: weight}) for task, weight in others.items() if weight > 0)

    def asked(self, given: Mapping[str, float]) -> tuple[str, Objective]:
        """Return a weighting that replaces the run's own for some tasks, and its name.

        Raises:
            UserError: a task that the run does not have, a weight that is none, or no task that counts.
        """
        self.require(*given)
        weights = {**self.own, **given}
        if any(not 0 <= weight < np.inf for weight in weights.values()) or not any(weights.values()):
            raise UserError("weights should be 0 or more, and finite, one of them above 0")
        return " ".join(f"{task}={weight:g}" for task, weight in given.items()), self.weighting(weights)

    def between(self, first: str, second: str) -> dict[str, Objective]:
        """Return STEPS weightings, from all that two tasks count given to the one to all given to the other.

        The other tasks count as in the run's average, all of them together as much as the two.

        Raises:
            UserError: a task that the run does not have, or the same one twice.
        """
        self.require(first, second)
        if first == second:
            raise UserError(f"--front takes two tasks, not {first} twice")
        others = {task: weight for task, weight in self.own.items() if task not in (first, second)}
        both = sum(others.values()) or 1.0
        return {
            f"{1 - share:.0%} : {share:.0%}": self.weighting(
                {**others, first: both * (1 - share), second: both * share}
            )
            for share in np.linspace(0.0, 1.0, STEPS).tolist()
        }

    def require(self, *tasks: str) -> None:
        """Refuse a task that the run does not have.

        Raises:
            UserError: naming those that it has.
        """
        if unknown := [task for task in tasks if task not in self.tasks]:
            raise UserError(f"{self.name} has no task {unknown[0]!r}; its tasks are {', '.join(self.tasks)}")

    def proposal(self, point: Point) -> Proposal:
        """Return the merge that makes a point."""
        weights = dict(zip(self.problem.directions, point.recipe.tolist(), strict=True))
        return weighted(self.state.population, weights, self.problem.blocks, point.average)

    def _best(self, objective: Objective) -> np.ndarray:
        process, scorer = self.problem.process, self.problem.scorer
        centre = proposals.choose(process, scorer, objective)
        climb = replace(self.problem.climb, curiosity=0.0, apart=0.0)
        (found,) = proposals.propose(process, scorer, objective, climb, centre=centre, seed=0)
        (known,) = proposals.judge(process, scorer, objective, process.recipes[centre][None])
        return max(known, found, key=lambda one: one.expected).recipe  # the climb was on smoothed scores


def most_opposed(emphasised: Sequence[Point], tasks: Sequence[str]) -> tuple[str, str] | None:
    """Return the two tasks of which each loses most where the other counts most; None for fewer than two tasks.

    Args:
        emphasised: a point for each task, at which it counts most, in the tasks' order.
        tasks: their names, two or more.
    """
    best = dict(zip(tasks, emphasised, strict=True)) if len(emphasised) == len(tasks) else {}

    def loss(pair: tuple[str, str]) -> float:
        return min(best[one].tasks[one].value - best[other].tasks[one].value for one, other in (pair, pair[::-1]))

    return max(combinations(best, 2), key=loss, default=None)


def load(folder: Path) -> Front:
    """Read a run, and fit what its models answered.

    Raises:
        UserError: no run there, or one that tells too little to predict anything.
    """
    state = replay(events_of(folder))
    if state.started is None:
        raise UserError(f"{folder}: nothing has been evaluated yet")
    path = folder / "kinship.npz"
    measured = Grams.load(path) if path.exists() else None
    if measured is not None:
        measured = measured.of([name for name in measured.names if name in state.measured])
    strategy = strategy_of(state.started["settings"]["strategy"])
    return Front(folder.resolve().name, state, problem(folder, state, strategy, measured))
