"""The lessons of a run: one before every candidate, from wherever the journal says that learning is."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from src.evaluation.model import ReusableModel
from src.learning.base import ByGradient
from src.learning.samples import Division, Sample, Targets, samples
from src.learning.training import Course, Training
from src.runtime import checksums, files, progress
from src.runtime.cache import key_of
from src.runtime.errors import persistently
from src.strategy.recipe_gradient import Lesson, RecipeGradient

FILE = "learning.json"
"""In a run's folder, how far learning has come: it spares learning that again, and can be deleted."""


class Learner(ByGradient):
    """Learns for a run."""

    def check(self) -> None:
        """Refuse tasks that nothing can be learned from.

        Raises:
            UserError: naming the first.
        """
        self._asked(None)

    def learn(self, lesson: Lesson) -> np.ndarray | None:
        """Go on with a lesson until there is a candidate, as `strategy.recipe_gradient.Learner` describes."""
        began, generation = time.monotonic(), self._state.population.generation + 1
        told = max((one.steps for one in self._state.lessons), default=-1)
        since = max((one.steps for one in self._state.lessons if one.generation < generation), default=0)
        over = any(one.generation == generation for one in self._state.lessons)
        training, kept = self._training(lesson)
        key, costs = self._key(lesson), _Costs(lesson.settings, kept)
        course = self._reached(told, training, key)
        left = self._room()
        with progress.bar("learning", total=lesson.settings.total, unit="step") as bar:
            while not _ended(course, since, lesson.settings, over=over):
                if costs.passes(told, course.steps + lesson.settings.steps) > left:
                    break
                course = training.go_on(course)
                self._keep(course, key)
                bar.update(course.steps - bar.n)
                loss = course.looks[-1].kept_back
                progress.note(f"{course.steps} gradient steps: a loss of {loss:.4f} on what is kept back")
        if course.steps > told:
            last, names = course.looks[-1], lesson.directions
            fields = {
                "generation": generation,
                "steps": course.steps,
                "forward": costs.forward(told, course.steps),
                "back": costs.back(told, course.steps),
                "loss": last.loss,
                "kept_back": last.kept_back,
                "weights": dict(zip(names, np.mean(course.weights, axis=1).tolist(), strict=True)),
                "seconds": time.monotonic() - began,
            }
            self.event = "learned", fields
        return np.array(course.best.weights) if course.looks and course.best.steps > since else None

    def _training(self, lesson: Lesson) -> tuple[Training, int]:
        """Return the lesson with model, weights and samples, and how many samples are kept back."""
        how = lesson.settings
        passes = self._opened(lesson.directions, lesson.blocks, lesson.targets)
        found, weights = self._asked(lesson.targets)
        division = Division.of(found, weights, share=how.kept_back, most=how.samples, seed=how.seed)
        return Training(lesson, passes, division, self._workers.processes), division.kept_count

    def _asked(self, targets: Targets | None) -> tuple[list[Sample], dict[str, float]]:
        return samples(self._evaluator(), self._how.objective_loss, targets)

    def _samples(self, targets: Targets | None) -> Sequence[Sample]:
        return self._asked(targets)[0]

    def _recomputes(self, model: ReusableModel) -> bool:
        return self._how.checkpointing

    @property
    def _how(self) -> RecipeGradient:
        assert isinstance(self._settings.strategy, RecipeGradient)
        return self._settings.strategy

    def _reached(self, steps: int, training: Training, key: str) -> Course:
        """Return the course as it was left, which is at these steps or past them; learn it again if that is lost."""
        try:
            found = checksums.load(self._file.read_bytes())
            course = Course.from_dict(found["course"])
            if found["key"] == key and course.steps >= steps:
                return course
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"warning: {self._file}: {str(error).splitlines()[0]}; it is learned again", file=sys.stderr)
        course = Course()
        while course.steps < steps:
            course = training.go_on(course)
        return course

    def _keep(self, course: Course, key: str) -> None:
        content = checksums.dump({"key": key, "course": course.as_dict()})
        persistently(partial(files.write_bytes, self._file, content), self._file)

    def _key(self, lesson: Lesson) -> str:
        """Return a digest of all that a course depends on."""
        models = [self._store.checkpoint(name).fingerprint() for name in ("base", *lesson.directions)]
        how = {**asdict(lesson.settings), "every": None, "patience": None}
        return key_of(how, models, lesson.start.tolist(), dict(lesson.blocks), self._evaluator().identity)

    @property
    def _file(self) -> Path:
        return self._settings.folder / FILE


@dataclass(frozen=True)
class _Costs:
    """What it takes to come from one look to another; -1 is before the first, which is at step 0."""

    how: RecipeGradient
    kept: int

    def back(self, first: int, last: int) -> int:
        """Return how many samples go backwards."""
        return (last - max(first, 0)) * self.how.batch

    def forward(self, first: int, last: int) -> int:
        """Return how many samples go forwards."""
        looks = math.ceil((last - max(first, 0)) / self.how.steps) + (first < 0)
        return self.back(first, last) + looks * self.kept

    def passes(self, first: int, last: int) -> int:
        """Return what that comes to, of which going backwards counts two."""
        return self.forward(first, last) + 2 * self.back(first, last)


def _ended(course: Course, since: int, how: RecipeGradient, *, over: bool) -> bool:
    """Return whether a lesson that began after step `since` ends here.

    `over`: it did before, so that whatever came of it is the candidate.
    """
    if not course.looks:
        return False
    better = course.best.steps > since
    looks = sum(one.steps > since for one in course.looks)
    idle = sum(one.steps > course.best.steps for one in course.looks)
    return (better and (over or looks >= how.every)) or idle >= how.patience or course.steps >= how.total
