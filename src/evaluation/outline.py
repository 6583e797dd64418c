"""What an evaluation asks and what it takes, before anything is evaluated: for the plan.

outline   the tasks: how many samples on either side, how many examples, which metric
measure   the time and the memory of one evaluation, from one batch of each kind of request
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from src.config import Evaluate, Task
from src.evaluation import tasks
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import Piece, Requests, ReusableModel

LONGEST = 10.0
"""Seconds that a batch may take to be measured whole; of a slower model one request stands for it."""


@dataclass(frozen=True)
class Asked:
    """A task of the configuration, as far as it can be known; None where only its data could tell."""

    task: str
    select: int | None
    """Samples that steer the search."""
    holdout: int | None
    """Samples that are held out."""
    shots: str | None
    """Examples in a prompt; of a group's tasks, all that occur."""
    metric: str | None
    weight: float


@dataclass(frozen=True)
class Cost:
    """What one evaluation takes on this machine."""

    seconds: float
    """Loading the model is not included."""
    memory: int
    """Bytes at the peak, of the GPU or of this process."""


def outline(settings: Evaluate, evaluator: Evaluator | None) -> list[Asked]:
    """Return what is asked, task by task.

    Args:
        settings: of the run.
        evaluator: of those of its tasks whose data are here; None where somebody else evaluates.
    """
    loaded = evaluator.shown() if evaluator is not None else {}
    held_out = evaluator.sides[-1].shown() if evaluator is not None and evaluator.holdout else {}
    defined = {} if evaluator is None else _defined(settings)

    def asked(task: Task, *, steers: bool, kept: bool) -> Asked:
        unseen: tuple[int | None, str | None, str | None] = (None, *defined.get(task.name, (None, None)))
        select, shots, metric = (loaded if steers else held_out).get(task.name, unseen)
        others = held_out.get(task.name, unseen)[0] if kept else 0
        return Asked(task.name, select if steers else 0, others, shots, metric, task.weight)

    return [
        *(asked(task, steers=True, kept=settings.held_out_share is not None) for task in settings.tasks),
        *(asked(task, steers=False, kept=True) for task in settings.held_out),
    ]


def measure(evaluator: Evaluator, folder: Path) -> Cost:
    """Measure what evaluating a model takes, with any backend that is given one batch after the other (not vLLM).

    Raises:
        RuntimeError, MemoryError: as evaluating it would.
    """
    model, requests, pieces = evaluator.prepare(folder)
    assert isinstance(model, ReusableModel)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = 0.0
    for kind in requests:
        mine = [piece for piece in pieces if piece.kind == kind]
        first = mine[0]
        one = {kind: [requests[kind][first.places[0]]]}
        (small,) = model.pieces(one)
        model.answer(small, one)  # the first call sets up what later ones have
        measured, spent = small, _timed(model, small, one)
        if spent * len(first.places) < LONGEST:
            measured, spent = first, _timed(model, first, requests)
        seconds += spent / _size(measured) * sum(map(_size, mine))
    if torch.device(model.device).type == "cuda":
        return Cost(seconds, torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _defined(settings: Evaluate) -> Mapping[str, tuple[str, str | None]]:
    """Return shots and metric of the tasks whose files tell both."""
    found = {}
    for task, definition in tasks.defined(settings):
        if definition.name == task.name and definition.kind == definition.kind.TASK:
            shots = task.shots if task.shots is not None else definition.config.get("num_fewshot") or 0
            found[task.name] = str(shots), task.metric or next(iter(definition.metrics or ()), None)
    return found


def _size(piece: Piece) -> int:
    """Return what the time of a piece is proportional to: its tokens, or its requests."""
    return len(piece.places) if piece.batch is None else piece.batch.tokens.numel()


def _timed(model: ReusableModel, piece: Piece, requests: Requests) -> float:
    began = time.monotonic()
    model.answer(piece, requests)
    return time.monotonic() - began
