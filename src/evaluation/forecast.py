"""What the plan says of evaluating: the time and the memory of one evaluation, measured here, and the time of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil
import torch

from src.config import Settings
from src.evaluation.base import Evaluation
from src.evaluation.candidates import key_of_evaluation
from src.evaluation.evaluator import Evaluator
from src.evaluation.outline import Cost, measure
from src.models.checkpoint import Checkpoint
from src.models.methods.forecast import duration
from src.models.store import Candidate
from src.runtime.cache import Cache
from src.runtime.files import size_words


def forecast(
    settings: Settings, founders: Mapping[str, Checkpoint], evaluator: Evaluator | None, merges: int | None
) -> list[str]:
    """Return what evaluating takes, a line or two; measured on the first of the founders.

    Args:
        settings: of the run.
        founders: those that are here.
        evaluator: of the tasks whose data are here; None where somebody else evaluates.
        merges: that the run can come to; None where nothing bounds it.
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
        where = ", ".join(evaluator.devices) + (f", {used} thread{'s' * (used > 1)}" if _on_cpu(evaluator) else "")
    except (RuntimeError, MemoryError, ValueError, OSError) as error:  # no tokenizer, say
        return [f"evaluating: {name} failed its first batch: {' '.join(str(error).split())[:200]}"]
    finally:
        torch.set_num_threads(threads)
    one = (
        f"evaluating a model: about {duration(costs[0].seconds)}{_on_the_holdout(costs)} here ({where}; a batch of "
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


def _on_the_holdout(costs: Sequence[Cost]) -> str:
    return f", and {duration(costs[1].seconds)} on the holdout," if len(costs) > 1 else ""


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
    if not _on_cpu(evaluator):
        free = sum(torch.cuda.mem_get_info(device)[0] for device in evaluator.devices)
    return f"a model has {size_words(need)}, and {size_words(free)} of memory are free" if need > free else None


def _on_cpu(evaluator: Evaluator) -> bool:
    return evaluator.devices[0] == "cpu"
