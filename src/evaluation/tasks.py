"""The tasks of a configuration: found, checked, loaded, sampled, and their requests."""

from __future__ import annotations

import copy
import errno
import functools
import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task as HarnessTask
from lm_eval.tasks import TaskManager

from src import zoo
from src.config import Evaluate, Settings, Task
from src.evaluation import private
from src.evaluation.base import BaseEvaluator
from src.evaluation.choices import Choices, choices_of, score_choices
from src.evaluation.definition import Definition, definitions
from src.evaluation.responses import Block, whole
from src.runtime import plugins
from src.runtime.errors import MachineError, UserError

if TYPE_CHECKING:
    from src.evaluation.evaluator import Evaluator

_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
FEWSHOT_SEED = 1234  # lm-eval's own, so that scores can be held against the leaderboard's
Request = Instance
"""What a model is asked for once: lm-eval's record of it."""

private.patch_globals()  # before any task is loaded


class TaskRequests:
    """A task's documents and requests, built once, and what was found of each document for the last model.

    Attributes:
        leaf: lm-eval's task, which asks just these.
        filters: names of the task's filters.
    """

    def __init__(self, leaf: HarnessTask, drawn: list[int] | None, **prompting: Any) -> None:
        """Build the requests of the drawn documents (sorted indices), or of all, as plain text.

        `prompting` is what else lm-eval builds prompts from. A request that cannot be built raises UserError.
        """
        with attribute_errors(leaf, "its questions cannot be made"):
            leaf.build_all_requests(rank=0, world_size=1, samples=drawn, **prompting)
            documents = list(leaf.doc_iterator(rank=0, world_size=1, samples=drawn))
            ids = drawn or range(len(documents))
            asked = {instance.doc_id for instance in leaf.instances}
            if empty := [one for one, (place, _) in zip(ids, documents, strict=True) if place not in asked]:
                raise ValueError(f"sample {empty[0]} asks nothing; is its list of choices empty?")
        self._in_templates: dict[str, list[Any]] = {}

        def in_template(key: str, template: Callable[..., str]) -> list[Any]:
            if key not in self._in_templates:
                built = copy.copy(self._unfrozen)
                built.set_fewshot_seed(FEWSHOT_SEED)  # the same examples as ever
                chat = {"apply_chat_template": True, "chat_template": template}
                built.build_all_requests(rank=0, world_size=1, samples=drawn, **chat, **prompting)
                self._in_templates[key] = built.instances
            return self._in_templates[key]

        self._in_template = in_template
        self._choices = functools.cache(functools.partial(choices_of, leaf, [document for _, document in documents]))
        self._freeze(leaf, documents, ids)

    def _freeze(self, leaf: HarnessTask, documents: Sequence[tuple[int, Any]], ids: Sequence[int]) -> None:
        self.leaf, self._documents, self._ids = leaf, documents, ids
        self.filters = private.filter_names(leaf)
        self._found: list[tuple[Any, Mapping[str, Any]]] = []
        self._unfrozen = copy.copy(leaf)
        private.freeze_requests(leaf, documents, lambda answers, metrics: self._found.append((answers, metrics)))

    def part(self, places: Sequence[int]) -> TaskRequests:
        """Return the requests of some of the documents, by their places among them, in order."""
        part = copy.copy(self)
        documents = [self._documents[place] for place in places]
        leaf = private.part_of_requests(self._unfrozen, documents)
        part._freeze(leaf, documents, [self._ids[place] for place in places])
        part._choices = functools.cache(lambda metric: (all_ := self._choices(metric)) and all_.of(places))
        return part

    def __len__(self) -> int:
        return len(self._documents)

    def choices(self, metric: str) -> Choices | None:
        """Return the documents' choices, in order; None unless the metric says whether the likeliest one is right."""
        return self._choices(metric)

    def documents(self) -> Iterator[tuple[int, Any, list[Instance]]]:
        """Yield the number of every document, the document, and its requests as lm-eval has them, in order."""
        asked: dict[Any, list[Instance]] = {}
        for instance in self.leaf.instances:
            asked.setdefault(instance.doc_id, []).append(instance)
        for number, (place, document) in zip(self._ids, self._documents, strict=True):
            yield number, document, sorted(asked[place], key=lambda one: one.idx)

    def apply_template(self, key: str, template: Callable[..., str]) -> None:
        """Ask the same documents in a chat template from now on; the requests of a key are built once."""
        with attribute_errors(self.leaf, "its questions cannot be put into the chat template"):
            everything = self._in_template(key, template)
        places = {place for place, _ in self._documents}
        private.set_requests(self.leaf, [one for one in everything if one.doc_id in places])

    def clear(self) -> None:
        """Discard the answers of the previous model."""
        self._found.clear()
        for instance in self.leaf.instances:
            instance.resps, instance.filtered_resps = [], {}

    def metric_names(self) -> list[str]:
        """Return the names of the task's metrics, as lm-eval has them in its results.

        A metric that executes what was generated may give several, by names of its own (`pass@1` of humaneval's
        `pass_at_k`): how it judges an empty answer to the first document tells.
        """
        with attribute_errors(self.leaf, "its metrics cannot be listed"):
            if not getattr(self.leaf, "UNSAFE_CODE", False) or self.leaf.OUTPUT_TYPE != "generate_until":
                return list(self.leaf.aggregation())
            for instance in self.leaf.instances:
                instance.resps = [""] * instance.repeats
            self.leaf.apply_filters()
            place, document = self._documents[0]
            answers = [one.filtered_resps[self.filters[0]] for one in self.leaf.instances if one.doc_id == place]
            found = self.leaf.process_results(document, answers)
        self.clear()
        return list(found)

    def scores(self, metric: str, chosen: str) -> dict[int, float]:
        """Return a metric of each document under one of the task's filters, where it is a number."""
        found = zip(self._ids, (metrics.get(metric) for _, metrics in self._judged(chosen)), strict=True)
        return {document: float(value) for document, value in found if isinstance(value, int | float)}

    def block(self, share: float, metric: str, chosen: str, score: float) -> Block:
        """Return the answers, of which the task's score follows under a metric and a filter.

        It counts as `share` in a group. lm-eval's score is all there is to tell unless it is a mean over documents.
        """
        name, samples = self.leaf.task_name, self.scores(metric, chosen)
        if len(samples) < len(self) or self.leaf.aggregation().get(metric) is not mean:
            return whole(name, share, score)
        if (choices := self._choices(metric)) is not None:
            values = score_choices(choices, [answers for answers, _ in self._judged(chosen)])
            right = [float(one.argmax() == gold) for one, gold in zip(values, choices.gold, strict=True)]
            if right == list(samples.values()):
                return Block(name, share, self._ids, values, choices.gold)
        return Block(name, share, self._ids, [np.array([value]) for value in samples.values()], [0] * len(self))

    def _judged(self, chosen: str) -> list[tuple[Any, Mapping[str, Any]]]:
        first = self.filters.index(chosen) * len(self._documents)
        return self._found[first : first + len(self._documents)]


@contextmanager
def attribute_errors(task: HarnessTask | str, what: str) -> Iterator[None]:
    """Raise whatever is raised within as an error of the task, in one line; `what` says what failed.

    Raises:
        UserError: naming the task, by lm-eval's name for it.
        MachineError: the disk's or the memory's fault.
    """
    try:
        yield
    except (UserError, MachineError):
        raise
    except Exception as error:
        name = task if isinstance(task, str) else task.task_name
        text = "".join(sign if sign.isprintable() else " " for sign in " ".join(str(error).split())[:200])
        found = f"task {name}: {what} ({type(error).__name__}: {text})"
        chain = [error, error.__cause__, error.__context__]
        if any(isinstance(one, MemoryError) or getattr(one, "errno", None) in _MACHINE for one in chain):
            raise MachineError(found) from error
        raise UserError(found) from error


def check(settings: Settings, *, try_out: bool, devices: Sequence[str] = ("cpu",)) -> Evaluator | None:
    """Refuse tasks that lm-eval does not have, that would execute code, or that cannot work, and an absent backend.

    With `try_out`, tasks whose data are here are made, too, and their metrics tried, and their evaluator is returned. A
    run does so before it evaluates anything; a plan, or a long download, should not come before that.
    """
    asked = settings.evaluate
    if asked.evaluator is not None:
        own: type[BaseEvaluator] = plugins.load_class(asked.evaluator, BaseEvaluator)
        if asked.parts > 1 and own.part is BaseEvaluator.part:
            raise UserError(
                f"evaluate.share is {asked.share:g}, and {asked.evaluator} has no method `part`, which would say what "
                "a share of the samples is; leave the share at null"
            )
        return None
    if asked.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "evaluate.backend is vllm, which is not installed; pip install '.[vllm]' installs it, "
            "and evaluate.backend=hf does without"
        )
    inside = asked.include is not None and asked.include.is_relative_to(settings.zoo.folder)
    _check_names(asked, zoo.TASKS if inside else ())  # whose files may not be written yet
    for task, found in defined(asked):
        if not asked.unsafe_code and (code := found.code(zoo.READER)) is not None:
            raise UserError(
                f"task {task.name}: {code}; look at it, and allow it with evaluate.unsafe_code=true if you trust it"
            )
        if found.metrics is not None and found.name == task.name:
            main_metric(task, found.metrics, found.filters, "tasks" if task in asked.tasks else "holdout")
    if not try_out:
        return None
    from src.evaluation.evaluator import Evaluator

    here = with_local_data(asked)
    return Evaluator(here, seed=settings.seed, devices=devices, remote_code=settings.trust_remote_code)


def with_local_data(settings: Evaluate) -> Evaluate:
    """Return the settings with only those tasks whose data are on this machine: as files, or downloaded before."""
    known: dict[str, list[Definition]] = {}
    for task, one in defined(settings):
        known.setdefault(task.name, []).append(one)
    here = {name for name, found in known.items() if all(one.is_local for one in found)}
    for name, found in known.items():
        if name not in here and all(one.is_local or one.is_downloaded for one in found):
            with suppress(UserError):  # of another version, or only in part
                load(task_manager(settings), Task(name=name), {})
                here.add(name)
    tasks, held_out = (
        tuple(task for task in listed if task.name in here) for listed in (settings.tasks, settings.held_out)
    )
    holdout = held_out or (settings.holdout if settings.held_out_share else None)
    return settings.model_copy(update={"tasks": tasks, "holdout": holdout})


def defined(settings: Evaluate) -> Iterator[tuple[Task, Definition]]:
    """Yield every task with each definition that it leads to; none where their folder is not there yet."""
    if settings.include is None or settings.include.is_dir():
        manager = task_manager(settings)
        for task in (*settings.tasks, *settings.held_out):
            for found in definitions(manager, task.name):
                yield task, found


def _check_names(settings: Evaluate, known: Sequence[str]) -> None:
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
    if unknown and (missing := [name for name in unknown if name not in _default_manager().all_tasks]):
        here = f"Known here: {', '.join(known)}. " if known else ""
        raise UserError(
            f"evaluate.{key[missing[0]]} names {missing[0]!r}, which lm-eval does not have. "
            f"{here}`lm-eval ls tasks` lists lm-eval's own."
        )


@functools.cache
def _default_manager(include: str | None = None) -> TaskManager:
    return TaskManager(include_path=include)


def task_manager(settings: Evaluate) -> TaskManager:
    """Return lm-eval's manager of the tasks: of the user's folder alone, where that has them all."""
    if settings.unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric that executes what a model wrote asks once more
    include = None if settings.include is None else str(settings.include)
    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if all(task.name in own.all_tasks for task in (*settings.tasks, *settings.held_out)):
            return own
    return _default_manager(include)


def load(manager: TaskManager, task: Task, gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Load a task or group; what it generates is generated as `gen_kwargs` say over what it says itself.

    Raises:
        UserError: its data cannot be reached, or its definition or its first question is no good.
    """
    try:
        with attribute_errors(task.name, "it could not be loaded"):
            loaded = manager.load([task.name])
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, ConnectionError | FileNotFoundError):
            raise UserError(f"{error}; is its data set reachable?") from cause
        if isinstance(cause, IndexError):
            raise UserError(f"{error}; is a split of its data empty, or a list of choices?") from cause
        raise
    for leaf in loaded["tasks"].values():
        own = leaf.get_config("num_fewshot") or 0
        leaf.set_config("num_fewshot", own if task.shots is None else task.shots)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
        if gen_kwargs and leaf.get_config("output_type") == "generate_until":
            leaf.set_config("generation_kwargs", dict(gen_kwargs), update=True)
    return {"groups": {}, "group_map": {}, **loaded}


def main_metric(task: Task, known: Sequence[str], names: Sequence[str], key: str) -> tuple[str, str]:
    """Return a task's metric and filter, as lm-eval names them; UserError where they are none of these."""
    if not known:
        raise UserError(f"task {task.name}: it has no metric; its metric_list must name one")
    metric, _, chosen = (task.metric or known[0]).partition(",")
    if metric not in known or (chosen and chosen not in names):
        there = ", ".join(f"{m},{f}" if f != "none" else m for m in known for f in names)
        raise UserError(f"evaluate.{key}: {task.name} has no metric {task.metric!r}. Known: {there}.")
    return metric, chosen or names[0]


def divide(requests: TaskRequests, settings: Evaluate, seed: int) -> list[list[int]]:
    """Divide a task's documents into parts of equal size, or of one document more: the sorted places of each, drawn."""
    name, parts = requests.leaf.task_name, settings.parts
    if len(requests) < parts:
        raise UserError(
            f"evaluate.share is {settings.share:g}, which makes {parts} parts, and {name} has {len(requests)} samples; "
            f"the least share that every part has one of is {1 / len(requests):.4g}"
        )
    order = random.Random(f"{seed}/{name}/parts").sample(range(len(requests)), len(requests))
    return [sorted(order[number::parts]) for number in range(parts)]


def draw(leaf: HarnessTask, settings: Evaluate, seed: int, *, held_out: bool) -> list[int] | None:
    """Draw the documents that are asked: sorted indices (lm-eval misreports an unsorted list), or None for all.

    A share is held out before a limit is applied, so that a larger limit asks more and never changes sides.
    """
    if settings.held_out_share is None and settings.limit is None:
        return None
    count = len(leaf.eval_docs)
    order = random.Random(f"{seed}/{leaf.task_name}").sample(range(count), count)
    if settings.held_out_share is not None:
        if count < 2:
            raise UserError(
                f"evaluate.holdout is {settings.held_out_share}, but {leaf.task_name} has {count} sample; leave that "
                "task out, or hold out other tasks: evaluate.holdout=[TASK, …]"
            )
        cut = min(max(round(settings.held_out_share * count), 1), count - 1)
        order = order[:cut] if held_out else order[cut:]
    return sorted(order[: settings.limit])
