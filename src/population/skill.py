"""What a model keeps of what the founders can: by task, beside the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Skill:
    """One task: who of the founders is best at it, and how much of that a model has kept."""

    task: str
    specialist: str
    """The founder that is best at the task; the first of equals."""
    best: float
    """The specialist's score."""
    score: float
    """The model's."""

    @property
    def lost(self) -> float:
        """Points below the specialist; negative where the model is better."""
        return self.best - self.score

    @property
    def kept(self) -> float:
        """Share of the specialist's score, 0 or more; 1 where the specialist scores nothing either."""
        return self.score / self.best if self.best > 0 else 1.0


def skills(founders: Mapping[str, Mapping[str, float]], model: Mapping[str, float]) -> list[Skill]:
    """Return a model's skills, in the order of its tasks.

    Args:
        founders: their scores by name; at least one founder, all with the same tasks.
        model: the model's scores on the same tasks and the same samples.
    """
    found = []
    for task, score in model.items():
        specialist = max(founders, key=lambda name: founders[name][task])
        found.append(Skill(task, specialist, founders[specialist][task], score))
    return found


def normalised_average(found: list[Skill]) -> float:
    """Return the mean share kept over tasks, ×100: what the literature reports as normalised accuracy.

    100 for a model that is as good as the specialist at every task (2412.00081, section 5.1).
    """
    return 100 * fmean(skill.kept for skill in found)


def worst(found: list[Skill]) -> Skill:
    """Return the task with the lowest score of the model; the first of equals."""
    return min(found, key=lambda skill: skill.score)


def neglected(found: list[Skill], share: float = 0.5) -> list[Skill]:
    """Return the tasks of which a model keeps less than a share of the specialist's score, the most neglected first."""
    return sorted((skill for skill in found if skill.kept < share), key=lambda skill: skill.kept)
