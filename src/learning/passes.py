"""What goes through a model, forwards and back: parts of samples at given weights, here or in a process that assists.

An order says at which weights, what is to be found, and of which samples; each of its parts is one piece of work, and
what comes of a part does not depend on the process that does it. The orders of a lesson follow its opening, which says
what all of them are about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from src.evaluation.model import ReusableModel
from src.learning.gradient import Room, WeightedSum, recomputed
from src.learning.samples import Sample, loss_values, losses

Part = Sequence[tuple[Sample, float]]
"""Samples, and what each counts in a sum."""
Kind = Literal["losses", "loss", "chance"]
"""The samples' losses; or the derivatives of their sum, or of the sum of the right answers' probabilities."""
Result = TypeVar("Result")
HandOut = Callable[[Any, int, Callable[[int], Any]], list[Any]]


def alone(order: Any, count: int, piece: Callable[[int], Any]) -> list[Any]:
    """Return the results of all pieces, where no process assists: see `Workers.hand_out`."""
    return [piece(number) for number in range(count)]


@dataclass(eq=False)
class Passes:
    """The model of a lesson, its directions and samples.

    Attributes:
        model: is given the directions' sum.
        total: the directions.
        samples: by lm-eval task and document.
        checkpointing: whether activations are computed again instead of kept.
        room: where directions' tensors are kept between passes.
        hand_out: has the other processes do pieces too.
        pulse: is called before each part.
        written: the weights that the model has now.
    """

    model: ReusableModel
    total: WeightedSum
    samples: Mapping[tuple[str, int], Sample]
    checkpointing: bool = False
    room: Room = field(default_factory=Room)
    hand_out: HandOut = alone
    pulse: Callable[[], None] = lambda: None
    written: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Refuse a model whose weights have other names or shapes than on disk."""
        self.total.check(self.model.model)

    def losses(self, weights: np.ndarray, parts: Sequence[Sequence[Sample]]) -> list[list[float]]:
        """Return the losses of every part's samples, at weights [D, B]."""
        return self._found("losses", weights, [[(one, 1.0) for one in part] for part in parts])

    def gradients(
        self, kind: Literal["loss", "chance"], weights: np.ndarray, parts: Sequence[Part]
    ) -> list[tuple[float, np.ndarray]]:
        """Return of every part the weighted sum of its samples' losses or chances, and its derivatives [D, B]."""
        return self._found(kind, weights, parts)

    def piece(self, order: Mapping[str, Any]) -> Callable[[int], Any]:
        """Return what does a part of an order, by the part's number."""
        kind, weights = order["kind"], order["weights"]

        def do(number: int) -> Any:
            self.pulse()
            part = [(self.samples[task, document], count) for task, document, count in order["parts"][number]]
            self._write(weights)
            if kind == "losses":
                return loss_values(self.model, [one for one, _ in part])
            return self._gradient(kind, part, weights.shape[1])

        return do

    def _found(self, kind: Kind, weights: np.ndarray, parts: Sequence[Part]) -> list[Any]:
        listed = [[(one.task, one.document, count) for one, count in part] for part in parts]
        order = {"kind": kind, "weights": weights, "parts": listed}
        return self.hand_out(order, len(parts), self.piece(order))

    def _write(self, weights: np.ndarray) -> None:
        if self.written is None or not np.array_equal(self.written, weights):
            self.total.write(self.model.model, weights)
            self.written = weights.copy()

    def _gradient(self, kind: Kind, part: Part, size: int) -> tuple[float, np.ndarray]:
        some, counts = zip(*part, strict=True)

        def total() -> torch.Tensor:
            found = losses(self.model, some)
            if kind == "chance":
                found = torch.exp(-found)
            return found @ found.new_tensor(counts)

        with recomputed(self.model.model, self.checkpointing):
            found = self._fitting(lambda: self.total.gradient(self.model.model, size, total))
        self.room.look()
        return found

    def _fitting(self, work: Callable[[], Result]) -> Result:
        """Return what a pass returns; keep no directions beside it where the memory is too short for both."""
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self.room.clear():
                raise
        return work()  # not above, where the exception still holds what the first pass had
