"""The tasks of a configuration: found, loaded, drawn from, and put on sheets."""

from __future__ import annotations

import functools
import importlib.util
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
from lm_eval.api.task import Task as HarnessTask
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from src.config import Evaluate, Task
from src.errors import UserError

FEWSHOT_SEED = 1234  # lm-eval's own, so that scores can be held against the leaderboard's

# lm-eval compiles a task's prompt template anew for every sample; that was 40 % of a small model's evaluation.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=4096)(lm_eval.utils.env.from_string)
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# A run has one bar of its own; libraries' bars would break through it.
lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
disable_progress_bar()
datasets.disable_progress_bars()


class Sheet:
    """A task's documents and requests, made once, and what became of each document of the model that was asked last."""

    def __init__(self, leaf: HarnessTask, drawn: list[int] | None) -> None:
        leaf.build_all_requests(rank=0, world_size=1, samples=drawn)
        self._documents = list(leaf.doc_iterator(rank=0, world_size=1, samples=drawn))
        self._ids = drawn or range(len(self._documents))
        self._filters = filters(leaf)
        self._instances = leaf.instances
        self._judged: list[Mapping[str, Any]] = []
        judge = leaf.process_results

        def process_results(document: Any, answers: Any) -> Any:
            self._judged.append(found := judge(document, answers))
            return found

        # evaluate() would build the requests, read the documents and describe every sample again for every model.
        leaf.build_all_requests = lambda **_: None
        leaf.doc_iterator = self._iterate
        leaf.process_results = process_results

    def _iterate(self, **_: Any) -> Iterator[tuple[int, Any]]:
        return iter(self._documents)

    def clear(self) -> None:
        """Forget the answers of the model before."""
        self._judged.clear()
        for instance in self._instances:
            instance.resps, instance.filtered_resps = [], {}

    def scores(self, metric: str, chosen: str) -> dict[int, float]:
        """A metric of each document under one of the task's filters, where it is a number."""
        first = self._filters.index(chosen) * len(self._documents)
        judged = self._judged[first : first + len(self._documents)]
        found = zip(self._ids, (one.get(metric) for one in judged), strict=True)
        return {document: float(value) for document, value in found if isinstance(value, int | float)}


def check_backend(settings: Evaluate) -> None:
    """Refuse a backend that is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    if settings.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "evaluate.backend is vllm, which is not installed; pip install '.[vllm]' installs it, "
            "and evaluate.backend=hf does without"
        )


def check_tasks(settings: Evaluate, known: Sequence[str] = ()) -> None:
    """Refuse a task that lm-eval does not have, before anything is downloaded or trained.

    `known` are tasks that need no looking up (the embedded family's, whose files may not be written yet).

    Raises:
        UserError: naming the task, and how to list those there are.
    """
    key = {task.name: "holdout" for task in settings.held_out} | {task.name: "tasks" for task in settings.tasks}
    unknown = [name for name in key if name not in known]
    if not unknown:
        return
    if settings.include is not None and not known and not settings.include.is_dir():
        raise UserError(
            f"evaluate.include is {str(settings.include)!r}; no such folder; expected task YAML files there"
        )
    # lm-eval's own index takes ten seconds to read; a folder given by the user is asked first.
    if settings.include is not None and settings.include.is_dir():
        own = TaskManager(include_path=str(settings.include), include_defaults=False).all_tasks
        unknown = [name for name in unknown if name not in own]
    if unknown and (missing := [name for name in unknown if name not in _everything().all_tasks]):
        here = f"Known here: {', '.join(known)}. " if known else ""
        raise UserError(
            f"evaluate.{key[missing[0]]} names {missing[0]!r}, which lm-eval does not have. "
            f"{here}`lm-eval ls tasks` lists lm-eval's own."
        )


@functools.cache
def _everything() -> TaskManager:
    return TaskManager()


def manager_of(settings: Evaluate) -> TaskManager:
    """Who knows the tasks of a configuration: the folder that the user gave alone, where it has them all."""
    include = None if settings.include is None else str(settings.include)
    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if all(task.name in own.all_tasks for task in (*settings.tasks, *settings.held_out)):
            return own
    return TaskManager(include_path=include) if include else _everything()


def load(manager: TaskManager, task: Task, key: str) -> dict[str, Any]:
    """A task or group as lm-eval has it; `key` is the user's word for where it was named.

    Raises:
        UserError: its data cannot be reached.
    """
    try:
        loaded = manager.load([task.name])
    except (KeyError, ConnectionError, FileNotFoundError, ValueError) as error:
        text = str(error).strip("'\"").splitlines()[0]
        raise UserError(
            f"evaluate.{key}: {task.name} could not be loaded ({text}); is its data set reachable?"
        ) from error
    for leaf in loaded["tasks"].values():
        if task.shots is not None:
            leaf.set_config("num_fewshot", task.shots)
        elif leaf.get_config("num_fewshot") is None:
            leaf.set_config("num_fewshot", 0)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
    return {"groups": {}, "group_map": {}, **loaded}


def main_metric(task: Task, leaf: HarnessTask, key: str) -> tuple[str, str]:
    """Metric and filter of a task, as lm-eval names them in its results.

    Raises:
        UserError: listing those that the task has.
    """
    names = filters(leaf)
    known = list(leaf.aggregation())
    metric, _, chosen = (task.metric or known[0]).partition(",")
    if metric not in known or (chosen and chosen not in names):
        there = ", ".join(f"{m},{f}" if f != "none" else m for m in known for f in names)
        raise UserError(f"evaluate.{key}: {task.name} has no metric {task.metric!r}. Known: {there}.")
    return metric, chosen or names[0]


def draw(leaf: HarnessTask, settings: Evaluate, seed: int, *, held_out: bool) -> list[int] | None:
    """Which documents are asked: sorted indices, or None for all. lm-eval reports wrong ones for an unsorted list.

    A share is held out before a limit is applied, so that a larger limit asks more and never changes sides.
    """
    if settings.share is None and settings.limit is None:
        return None
    count = len(leaf.eval_docs)
    order = random.Random(f"{seed}/{leaf.task_name}").sample(range(count), count)
    if settings.share is not None:
        if count < 2:
            raise UserError(
                f"evaluate.holdout is {settings.share}, but {leaf.task_name} has {count} sample; leave that task "
                "out, or hold out other tasks: evaluate.holdout=[TASK, …]"
            )
        cut = min(max(round(settings.share * count), 1), count - 1)
        order = order[:cut] if held_out else order[cut:]
    return sorted(order[: settings.limit])


def filters(leaf: HarnessTask) -> list[str]:
    """The names of the ways in which a task reads an answer; `none`: as it is."""
    return [chain.name for chain in getattr(leaf, "_filters", [])] or ["none"]
