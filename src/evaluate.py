"""How good a model is; with living.py, the only place that knows lm-eval.

Requests are built once and serve every model; a model's weights are swapped into a living model wherever architecture
and tokenizer allow it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
from lm_eval import evaluate as run_tasks
from lm_eval.api.model import LM
from lm_eval.api.task import Task as HarnessTask
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from src.checkpoint import tensors_of
from src.config import Evaluate, Task
from src.errors import UserError
from src.living import Engine, LivingModel, Piece, Tensors

FEWSHOT_SEED = 1234  # lm-eval's own, so that scores can be held against the leaderboard's

Progress = Callable[[int, int], None]
Share = Callable[[int, Callable[[int], list[Any]]], Sequence[list[Any]]]
"""Has every number below the first argument answered by the second, by whoever is free; the answers in order."""

# lm-eval compiles a task's prompt template anew for every sample; that was 40 % of a small model's evaluation.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=4096)(lm_eval.utils.env.from_string)
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# A run has one bar of its own; libraries' bars would break through it.
lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
disable_progress_bar()
datasets.disable_progress_bars()


def alone(count: int, answer: Callable[[int], list[Any]]) -> list[list[Any]]:
    """Where there is nobody to share with."""
    return [answer(number) for number in range(count)]


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

    @property
    def count(self) -> int:
        """How many samples were scored."""
        return sum(len(scored) for scored in self.samples.values())

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Evaluation:
        """What `asdict` made plain data of, after a trip through JSON."""
        samples = {task: {int(doc): score for doc, score in scored.items()} for task, scored in kept["samples"].items()}
        return cls(kept["scores"], kept["average"], kept["stderr"], samples)

    def save(self, path: Path, key: str) -> None:
        """Write it as JSON, beside its place first, under the digest of all that it depends on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        beside.write_text(json.dumps({"key": key, **asdict(self)}) + "\n")
        beside.replace(path)


class Evaluator:
    """The tasks of a run, ready to be put to any number of models."""

    def __init__(
        self, settings: Evaluate, *, seed: int, devices: Sequence[str] = ("cpu",), remote_code: bool = False
    ) -> None:
        """Load the tasks and build their requests.

        Args:
            settings: tasks, metrics, weights, limit.
            seed: draws the samples that `limit` leaves, and any sampled generation.
            devices: where models are put; a model is spread over several.
            remote_code: whether a model or a task may execute Python code of its own.

        Raises:
            UserError: a task that lm-eval does not have, one whose data cannot be reached, an unknown metric.
        """
        self._settings = settings
        self._seed = seed
        self._devices = devices
        self._remote_code = remote_code
        self._living: LivingModel | None = None
        self._identity = ""
        self._planned: tuple[str, list[Piece]] = ("", [])
        manager = _manager(settings)
        self._loaded = {task.name: _load(manager, task) for task in settings.tasks}
        leaves = {name: leaf for loaded in self._loaded.values() for name, leaf in loaded["tasks"].items()}
        self._tasks = {
            "tasks": leaves,
            "groups": {name: group for loaded in self._loaded.values() for name, group in loaded["groups"].items()},
            "group_map": {k: v for loaded in self._loaded.values() for k, v in loaded["group_map"].items()},
        }
        self._metrics = {
            leaf: _main_metric(task, harness)
            for task in settings.tasks
            for leaf, harness in self._loaded[task.name]["tasks"].items()
        }
        drawn = {name: _draw(leaf, settings.limit, seed) for name, leaf in leaves.items()}
        self._sheets = {name: _Sheet(leaf, drawn[name]) for name, leaf in leaves.items()}
        self._requests = _by_kind(leaves)
        self.identity = _digest_requests(leaves, self._metrics, settings, devices[0].partition(":")[0])

    @property
    def in_memory(self) -> bool:
        """Whether models can be evaluated whose weights are not on disk."""
        return self._settings.backend == "hf"

    def evaluate(
        self, folder: Path, tensors: Tensors | None = None, progress: Progress | None = None, share: Share = alone
    ) -> Evaluation:
        """Score a model.

        Args:
            folder: its configuration and tokenizer, and its weights unless `tensors` has them.
            tensors: its weights by the names that they have on disk.
            progress: called with pieces of work done and in all.
            share: hands out the pieces; the scores do not depend on who answers which.

        Raises:
            RuntimeError: the model's scores are not finite.
        """
        model, pieces = self._awaken(folder, tensors)

        def answer(number: int) -> list[Any]:
            found = model.answer(pieces[number], self._requests)
            if progress is not None:
                progress(number + 1, len(pieces))
            return found

        try:
            answers = share(len(pieces), answer)
        finally:
            if isinstance(model, Engine):
                model.close()
        return self._evaluation(self._results(pieces, answers))

    def _awaken(self, folder: Path, tensors: Tensors | None) -> tuple[LivingModel | Engine, list[Piece]]:
        """A model with these weights, and the requests as its tokenizer and its size have them."""
        options: dict[str, Any] = {"seed": self._seed, "remote_code": self._remote_code}
        if not self.in_memory:
            engine = Engine(folder, self._settings, self._devices, **options)
            return engine, engine.pieces(self._requests)
        identity = surroundings(folder)
        if self._living is None or identity != self._identity or not self._living.take(tensors or tensors_of(folder)):
            self._living = None  # frees the memory of the model before
            self._living = LivingModel(folder, tensors, self._settings, self._devices, **options)
            self._identity = identity
        if self._planned[0] != identity:
            self._planned = identity, self._living.pieces(self._requests)
        return self._living, self._planned[1]

    def _results(self, pieces: Sequence[Piece], answers: Sequence[list[Any]]) -> Mapping[str, Any]:
        """What lm-eval makes of the answers."""
        found: dict[str, list[Any]] = {kind: [None] * len(asked) for kind, asked in self._requests.items()}
        for piece, given in zip(pieces, answers, strict=True):
            for place, one in zip(piece.places, given, strict=True):
                found[piece.kind][place] = tuple(one) if isinstance(one, list) else one
        for sheet in self._sheets.values():
            sheet.clear()
        result = run_tasks(lm=_Answered(found), task_dict=self._tasks, bootstrap_iters=0, log_samples=False)
        assert result is not None
        return result["results"]

    def _evaluation(self, results: Mapping[str, Any]) -> Evaluation:
        samples = {leaf: self._sheets[leaf].scores(*self._metrics[leaf]) for leaf in self._metrics}
        scores, errors = {}, {}
        for task in self._settings.tasks:
            leaves = self._loaded[task.name]["tasks"]
            scores[task.name] = 100 * _score(results, task.name, leaves, self._metrics)
            if not math.isfinite(scores[task.name]):
                raise RuntimeError(f"the score of {task.name} is {scores[task.name]}")
            errors[task.name] = 100 * _stderr([samples[leaf] for leaf in leaves])
        weights = {task.name: task.weight for task in self._settings.tasks}
        total = sum(weights.values())
        average = sum(weights[name] * score for name, score in scores.items()) / total
        stderr = math.sqrt(sum((weights[name] * error) ** 2 for name, error in errors.items())) / total
        return Evaluation(scores, average, stderr, samples)


class _Sheet:
    """A task's documents and requests, made once, and what became of each document of the model that was asked last."""

    def __init__(self, leaf: HarnessTask, drawn: list[int] | None) -> None:
        leaf.build_all_requests(rank=0, world_size=1, samples=drawn)
        self._documents = list(leaf.doc_iterator(rank=0, world_size=1, samples=drawn))
        self._ids = drawn or range(len(self._documents))
        self._filters = _filters(leaf)
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


class _Answered(LM):
    """What lm-eval takes for a model: answers that were given before."""

    def __init__(self, answers: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self._answers = answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what the model would have said."""
        return self._answers["loglikelihood"]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probability of each text."""
        return self._answers["loglikelihood_rolling"]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """What the model said."""
        return self._answers["generate_until"]


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
    unknown = [task.name for task in settings.tasks if task.name not in known]
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
            f"evaluate.tasks names {missing[0]!r}, which lm-eval does not have. "
            f"{here}`lm-eval ls tasks` lists lm-eval's own."
        )


@functools.cache
def _everything() -> TaskManager:
    return TaskManager()


def _manager(settings: Evaluate) -> TaskManager:
    include = None if settings.include is None else str(settings.include)
    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if all(task.name in own.all_tasks for task in settings.tasks):
            return own
    return TaskManager(include_path=include) if include else _everything()


def _load(manager: TaskManager, task: Task) -> dict[str, Any]:
    try:
        loaded = manager.load([task.name])
    except (KeyError, ConnectionError, FileNotFoundError, ValueError) as error:
        text = str(error).strip("'\"").splitlines()[0]
        raise UserError(
            f"evaluate.tasks: {task.name} could not be loaded ({text}); is its data set reachable?"
        ) from error
    for leaf in loaded["tasks"].values():
        if task.shots is not None:
            leaf.set_config("num_fewshot", task.shots)
        elif leaf.get_config("num_fewshot") is None:
            leaf.set_config("num_fewshot", 0)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
    return {"groups": {}, "group_map": {}, **loaded}


def _main_metric(task: Task, leaf: HarnessTask) -> tuple[str, str]:
    """Metric and filter of a task, as lm-eval names them in its results."""
    filters = _filters(leaf)
    known = list(leaf.aggregation())
    metric, _, chosen = (task.metric or known[0]).partition(",")
    if metric not in known or (chosen and chosen not in filters):
        names = ", ".join(f"{m},{f}" if f != "none" else m for m in known for f in filters)
        raise UserError(f"evaluate.tasks: {task.name} has no metric {task.metric!r}. Known: {names}.")
    return metric, chosen or filters[0]


def _filters(leaf: HarnessTask) -> list[str]:
    return [chain.name for chain in getattr(leaf, "_filters", [])] or ["none"]


def _by_kind(leaves: Mapping[str, HarnessTask]) -> dict[str, list[Any]]:
    """The requests of all tasks in the order in which lm-eval asks them, repeated ones as often as they are asked."""
    found: dict[str, list[Any]] = {}
    for leaf in leaves.values():
        for instance in leaf.instances:
            found.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
    return found


def _draw(leaf: HarnessTask, limit: int | None, seed: int) -> list[int] | None:
    """Which documents are asked: sorted indices, or None for all. lm-eval reports wrong ones for an unsorted list."""
    count = len(leaf.eval_docs)
    if limit is None:
        return None
    return sorted(random.Random(f"{seed}/{leaf.task_name}").sample(range(count), min(limit, count)))


def _digest_requests(
    leaves: Mapping[str, HarnessTask], metrics: Mapping[str, tuple[str, str]], settings: Evaluate, device: str
) -> str:
    """A digest of all that a score depends on but the model: every prompt and document, and how they are scored."""
    asked = sorted(metrics.items()), settings.backend, settings.dtype, settings.model_args, device
    digest = hashlib.sha256(repr(asked).encode())
    digest.update(repr([(task.name, task.weight) for task in settings.tasks]).encode())
    for name, leaf in leaves.items():
        for instance in leaf.instances:
            digest.update(repr((name, instance.doc_id, instance.idx, instance.args, instance.doc)).encode())
    return digest.hexdigest()


def _score(
    results: Mapping[str, Mapping[str, Any]],
    name: str,
    leaves: Mapping[str, Any],
    metrics: Mapping[str, tuple[str, str]],
) -> float:
    """lm-eval's own figure for a task or an aggregated group; of any other group or tag, the mean of its tasks."""
    chosen = metrics[next(iter(leaves))]
    key = ",".join(chosen)
    if name in results and key in results[name]:
        return float(results[name][key])
    return fmean(float(results[leaf][",".join(metrics[leaf])]) for leaf in leaves)


def _stderr(samples: Sequence[Mapping[int, float]]) -> float:
    values = [value for scored in samples for value in scored.values()]
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def surroundings(checkpoint: Path) -> str:
    """A digest of all of a checkpoint but its weights: tokenizer, configuration, templates.

    Two that share it can swap weights; two that do not may score differently with the same weights.
    """
    digest = hashlib.sha256()
    for file in (
        sorted(checkpoint.glob("*.json")) + sorted(checkpoint.glob("*.model")) + sorted(checkpoint.glob("*.jinja"))
    ):
        if not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
