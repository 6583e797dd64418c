"""What the plan says of evaluating: the time and the memory of one evaluation, measured here, and the time of all."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from src.config import Settings
from src.evaluation.base import Evaluation
from src.evaluation.candidates import key_of_evaluation
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import Piece, Requests, ReusableModel
from src.models.checkpoint import Checkpoint
from src.models.methods.forecast import duration
from src.models.store import Candidate
from src.runtime.cache import Cache
from src.runtime.files import size_words

LONGEST = 10.0
"""Seconds that a batch may take to be measured whole; of a slower model one request stands for it."""


@dataclass(frozen=True)
class Cost:
    """What one evaluation takes on this machine."""

    seconds: float
    """Loading the model is not included."""
    memory: int
    """Bytes at the peak, of the GPU or of this process."""


def forecast(
    settings: Settings, founders: Mapping[str, Checkpoint], evaluator: Evaluator | None, merges: int | None
) -> list[str]:
    """Return what evaluating takes, a line or two; measured on the first of the founders that are here.

    The evaluator is of the tasks whose data are here, None where somebody else evaluates; `merges` are those that the
    run can come to, None where nothing bounds it.
    """
    if evaluator is None:
        return ["evaluating: time and memory unknown, since an evaluator of your own does it"]
    if why := _unknown(settings, founders, evaluator):
        return [f"evaluating: time and memory unknown, since {why}"]
    name, checkpoint = next(iter(founders.items()))
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.workers.threads or threads)
    try:
        costs = [measure(side, checkpoint.config_folder) for side in evaluator.sides]
        used = torch.get_num_threads()
        on_cpu = evaluator.devices[0] == "cpu"
        where = ", ".join(evaluator.devices) + (f", {used} thread{'s' * (used > 1)}" if on_cpu else "")
        on_the_holdout = f", and {duration(costs[1].seconds)} on the holdout," if len(costs) > 1 else ""
    except (RuntimeError, MemoryError, ValueError, OSError, ImportError) as error:  # no tokenizer, a package
        return [f"evaluating: {name} failed its first batch: {' '.join(str(error).split())[:200]}"]
    finally:
        torch.set_num_threads(threads)
    one = (
        f"evaluating a model: about {duration(costs[0].seconds)}{on_the_holdout} here ({where}; a batch of "
        f"{name} was measured), {size_words(max(cost.memory for cost in costs))} of memory at its peak, and "
        f"{size_words(checkpoint.nbytes)} for an offspring's weights"
    )
    return [one, _all(settings, founders, evaluator, costs, merges)]


def _all(
    settings: Settings,
    founders: Mapping[str, Checkpoint],
    evaluator: Evaluator,
    costs: Sequence[Cost],
    merges: int | None,
) -> str:
    """Return the time of all evaluations, less those of founders that are known from other runs."""
    known = [_known(settings, side, founders) for side in evaluator.sides]
    everybody = len(settings.founders.models)
    told = f"; known from other runs: those of {known[0]} founders" if known[0] else ""
    if merges is None:
        return f"all evaluations: no bound{told}"
    seconds = (everybody - known[0] + merges / settings.evaluate.parts) * costs[0].seconds
    seconds += sum((everybody + 1 - kept) * cost.seconds for kept, cost in zip(known[1:], costs[1:], strict=True))
    return f"all evaluations: at most about {duration(seconds)} by one process{told}"


def _known(settings: Settings, side: Evaluator, founders: Mapping[str, Checkpoint]) -> int:
    """Return how many of the founders' evaluations the cache has."""
    cache = Cache(settings.cache.folder, weights=False)
    candidates = [Candidate(one.path, None, one.fingerprint()) for one in founders.values()]
    keys = [key_of_evaluation(side, one, settings.seed) for one in candidates]
    return sum(cache.evaluation(key, Evaluation.from_dict) is not None for key in keys)


def _unknown(settings: Settings, founders: Mapping[str, Checkpoint], evaluator: Evaluator) -> str | None:
    """Return why nothing can be measured; None where something can."""
    if settings.evaluate.backend == "vllm":
        return "vLLM makes its batches by itself"
    if not founders:
        return "no founder is here yet"
    asked = {task.name for task in (*settings.evaluate.tasks, *settings.evaluate.held_out)}
    if missing := sorted(asked - {name for side in evaluator.sides for name in side.shown()}):
        return f"the data of {', '.join(missing[:4])} are not here yet"
    need = next(iter(founders.values())).nbytes
    free = psutil.virtual_memory().available
    if evaluator.devices[0] != "cpu":
        free = sum(torch.cuda.mem_get_info(device)[0] for device in evaluator.devices)
    return f"a model has {size_words(need)}, and {size_words(free)} of memory are free" if need > free else None


def measure(evaluator: Evaluator, folder: Path) -> Cost:
    """Measure what evaluating a model takes, with any backend that is given one batch after the other (not vLLM)."""
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


def _size(piece: Piece) -> int:
    """Return what the time of a piece is proportional to: its tokens, or its requests."""
    return len(piece.places) if piece.batch is None else piece.batch.tokens.numel()


def _timed(model: ReusableModel, piece: Piece, requests: Requests) -> float:
    began = time.monotonic()
    model.answer(piece, requests)
    return time.monotonic() - began
