"""A model: who its parents are, how it was made, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from src.population.prediction import Prediction


@dataclass(frozen=True)
class Model:
    """A founder (generation 0, no parents) or an offspring, from its proposal to its last score."""

    name: str
    generation: int = 0
    parents: tuple[str, ...] = ()
    exploration: bool = False
    merge: Mapping[str, Any] | None = None
    """The merge of its own that an offspring was proposed with; None for the run's."""
    predicted: Prediction | None = None
    """What its proposal promised."""
    whole: bool = False
    """Whether it is asked everything, where others are asked a part of the samples."""
    expected: float | None = None
    """What a search that predicts answers takes its value to be, now that it was evaluated; in points."""
    source: str | None = None
    """Folder or hub name that a founder came from; None for offspring."""
    surroundings: str | None = None
    """Digest of the files beside a founder's weights; None for offspring, and in journals of earlier versions."""
    recipe: Mapping[str, Any] | None = None
    """How an offspring was merged; None until it was."""
    fingerprint: str | None = None
    """Of the checkpoint's content; None until there is one."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Main metric of each task, ×100."""
    average: float | None = None
    """Weighted mean of `scores`; None until the model has been evaluated."""
    stderr: float | None = None
    """Standard error of `average`."""
    part: int | None = None
    """Which part of the samples its scores are of, where offspring are asked a part each; None: all of them."""
    failure: str | None = None
    """Why this candidate can never be a parent: its merge, its weights or its evaluation failed."""

    @property
    def founder(self) -> bool:
        """Whether the user brought this model."""
        return not self.parents

    @property
    def pending(self) -> bool:
        """Whether it still has to be evaluated."""
        return self.average is None and self.failure is None
