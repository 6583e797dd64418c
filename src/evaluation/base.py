"""What the evolution needs of an evaluator, and what one finds; no lm-eval, so that anybody may bring another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from pydantic import InstanceOf, TypeAdapter

from src.config import Evaluate
from src.journal import CutOff
from src.runtime import checksums, files
from src.surrogate.questions import Answers

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
Share = Callable[[int, Callable[[int], list[Any]]], Sequence[list[Any]]]
"""Has every number below the first argument answered by the second, by whoever is free; the answers in order."""


def alone(count: int, answer: Callable[[int], list[Any]]) -> list[list[Any]]:
    """Return all answers, where there is nobody to share with."""
    return [answer(number) for number in range(count)]


def stderr_of(samples: Sequence[float]) -> float:
    """Return the standard error of the mean of samples' scores, in points; 0 of one."""
    return 100 * (stdev(samples) / math.sqrt(len(samples))) if len(samples) > 1 else 0.0


@dataclass(frozen=True)
class Evaluation:
    """What one model was found to be worth."""

    scores: Mapping[str, float]
    """Main metric of each task of the configuration, ×100."""
    average: float
    """Weighted mean of `scores`."""
    stderr: float
    """Standard error of `average`, from the spread over samples; tasks count as independent. 0 if unknown."""
    samples: Mapping[str, Mapping[int, float]]
    """Main metric of each sample, by lm-eval task and document: for comparing two models on the same samples."""
    weights: Mapping[str, float]
    """What each lm-eval task counts in `average`; a group's share is split by size where lm-eval aggregates it so."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """lm-eval's name of each score of `scores`."""
    answers: InstanceOf[Answers] | None = field(default=None, compare=False, repr=False)
    """What was answered, of which `scores` follows; None where the scores of samples are all that is known."""
    cut_off: Mapping[str, CutOff] = field(default_factory=dict)
    """Generated answers that were cut off, by lm-eval task; of those only with such answers."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of `scores`, in points, as far as the evaluator gives them."""

    @property
    def stderrs(self) -> dict[str, float]:
        """Standard errors of `scores`, in points: the evaluator's, else from the spread over samples; 0 of one."""
        spread = {task: stderr_of([*self.samples[task].values()]) for task in self.scores if self.samples.get(task)}
        return {**spread, **self.errors}

    @property
    def count(self) -> int:
        """The number of samples that were scored."""
        return sum(len(scored) for scored in self.samples.values())

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Evaluation:
        """Return what `as_dict` made, after a trip through JSON; ValueError if this is something else."""
        return TypeAdapter(cls).validate_python(kept)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the answers as plain data."""
        plain: dict[str, Any] = TypeAdapter(Evaluation).dump_python(self, exclude={"answers"}, warnings=False)
        return plain

    def save(self, path: Path, key: str) -> None:
        """Write it as JSON with a checksum, under the digest of all that it depends on."""
        files.write_bytes(path, checksums.dump({"key": key, **self.as_dict()}))


class BaseEvaluator(ABC):
    """The questions of a run, ready to be put to any number of models.

    A subclass of the user's own takes lm-eval's place where `evaluate.evaluator` is its dotted path.

    Attributes:
        holdout: the evaluator of what is held out; None where nothing is.
    """

    holdout: BaseEvaluator | None = None

    @abstractmethod
    def __init__(
        self, settings: Evaluate, *, seed: int, devices: Sequence[str] = ("cpu",), remote_code: bool = False
    ) -> None:
        """Get ready.

        Args:
            settings: `evaluate` of the configuration, in which `tasks` mean what the evaluator likes.
            seed: of whatever is drawn.
            devices: where models are put, as torch names them; a model is spread over several.
            remote_code: whether a model may execute Python code of its own.

        Raises:
            UserError: settings that make no sense.
        """

    @property
    @abstractmethod
    def identity(self) -> str:
        """A digest of all that a score depends on but the model and the seed: what evaluations are remembered by."""

    @property
    def in_memory(self) -> bool:
        """Whether models can be evaluated whose weights are not on disk."""
        return False

    def part(self, number: int) -> BaseEvaluator:
        """Return the evaluator of a part of the samples, for `evaluate.share`; it has an identity of its own.

        The parts have no sample in common, are all samples together, and stay the same; the lot may decide which is
        in which. An evaluator that cannot ask a part leaves this method out.

        Args:
            number: of the part, below `settings.parts`.
        """
        raise NotImplementedError

    @abstractmethod
    def evaluate(
        self,
        folder: Path,
        tensors: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
        share: Share = alone,
    ) -> Evaluation:
        """Evaluate a model.

        Args:
            folder: its configuration and tokenizer, and its weights unless `tensors` has them.
            tensors: its weights by the names that they have on disk, only where `in_memory` allows it.
            progress: may be called with pieces of work done and in all.
            share: may hand out the pieces among processes; the scores must not depend on who answers which.

        Raises:
            RuntimeError: the model has failed, and is left out of the search.
        """
