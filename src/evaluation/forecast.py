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
from src.evaluation import prefixes
from src.evaluation.base import Evaluation
from src.evaluation.batches import Piece
from src.evaluation.candidates import key_of_evaluation
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import Requests, ReusableModel
from src.models.checkpoint import Checkpoint
from src.models.methods.forecast import duration
from src.models.store import Candidate
from src.runtime.cache import Cache
from src.runtime.files import size_words

LONGEST = 10.0
"""Seconds that a batch may take to be measured whole; of a slower model one request stands for it."""
WORTH_TELLING = 0.2
"""Share of the tokens that sharing prefixes would spare, above which the plan says so."""


@dataclass(frozen=True)
class Cost:
    """What one evaluation takes on this machine."""

    seconds: float
    """Loading the model is not included."""
    memory: int
    """Bytes at the peak, of the GPU or of this process."""
    cached: int
    """Bytes of these that are keys and values of what is shared."""
    tokens: tuple[int, int]
    """Of log-likelihood requests, what goes through the model where nothing is shared, and where prefixes are."""


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
        shares = settings.evaluate.share_prefixes
        costs = [measure(side, checkpoint.config_folder, shares=shares) for side in evaluator.sides]
        used = torch.get_num_threads()
        on_cpu = evaluator.devices[0] == "cpu"
        where = ", ".join(evaluator.devices) + (f", {used} thread{'s' * (used > 1)}" if on_cpu else "")
        on_the_holdout = f", and {duration(costs[1].seconds)} on the holdout," if len(costs) > 1 else ""
    except (RuntimeError, MemoryError, ValueError, OSError, ImportError) as error:  # no tokenizer, a package
        return [f"evaluating: {name} failed its first batch: {' '.join(str(error).split())[:200]}"]
    finally:
        torch.set_num_threads(threads)
    cached = max(cost.cached for cost in costs)
    kept = f" ({size_words(cached)} of them keys and values of shared prefixes)" if cached else ""
    one = (
        f"evaluating a model: about {duration(costs[0].seconds)}{on_the_holdout} here ({where}; a batch of "
        f"{name} was measured), {size_words(max(cost.memory for cost in costs))} of memory at its peak{kept}, "
        f"and {size_words(checkpoint.nbytes)} for an offspring's weights"
    )
    shared = _shared(*costs[0].tokens, on=shares)
    return [one, *shared, _all(settings, founders, evaluator, costs, merges)]


def _shared(alone: int, together: int, *, on: bool) -> list[str]:
    """Return what sharing prefixes spares of so many tokens, in a line, or that it would; none where that is little."""
    tokens = f"{alone - together:,} of the {alone:,} tokens of an evaluation"
    if on:
        return [f"evaluate.share_prefixes: {tokens} are in prefixes of others, and not encoded again"]
    if alone - together > WORTH_TELLING * alone:
        return [f"evaluate.share_prefixes=true would not encode {tokens} again, which are in prefixes of others"]
    return []


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


def measure(evaluator: Evaluator, folder: Path, *, shares: bool = False) -> Cost:
    """Measure what evaluating a model takes, with any backend that is given one batch after the other (not vLLM).

    `shares` says whether prefixes are shared where they can be, as the evaluator's settings have it.
    """
    model, requests, pieces = evaluator.prepare(folder)
    assert isinstance(model, ReusableModel)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds, batch = 0.0, False
    for kind in requests:
        mine = [piece for piece in pieces if piece.kind == kind]
        first = mine[0]
        one = {kind: [requests[kind][first.places[0]]]}
        (small,) = model.pieces(one)
        model.answer(small, one)  # the first call sets up what later ones have
        measured, spent = small, _timed(model, small, one)
        if spent * len(first.places) < LONGEST:
            measured, spent = first, _timed(model, first, requests)
            batch |= first.batch is not None
        seconds += spent / _size(measured) * sum(map(_size, mine))
    cut = [piece.batch.tokens.numel() for piece in pieces if piece.batch is not None and piece.batch.cuts]
    cached = round(model.cached * max(cut, default=0))
    tokens = _tokens(requests, pieces, int(model.batch_size), shares=shares)
    if torch.device(model.device).type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(seconds, memory + (0 if batch else cached), cached, tokens)


def _tokens(requests: Requests, pieces: Sequence[Piece], size: int, *, shares: bool) -> tuple[int, int]:
    """Return what goes through the model for log-likelihoods where nothing is shared, and where prefixes are."""
    scored = [(piece, piece.batch) for piece in pieces if piece.batch is not None]
    texts: dict[prefixes.Text, tuple[str, int]] = {}
    for piece, batch in scored:
        for number, text in batch.texts():
            asked = requests[piece.kind][piece.places[number]]
            texts[text] = asked.task_name, asked.doc_id
    alone = prefixes.padded([len(text) for text in texts], size)
    if shares:
        return alone, sum(batch.size for _, batch in scored)
    return alone, sum(part.tokens for part in prefixes.divide(texts, size)) or alone


def _size(piece: Piece) -> int:
    """Return what the time of a piece is proportional to: its tokens, or its requests."""
    return len(piece.places) if piece.batch is None else piece.batch.size


def _timed(model: ReusableModel, piece: Piece, requests: Requests) -> float:
    began = time.monotonic()
    model.answer(piece, requests)
    return time.monotonic() - began
