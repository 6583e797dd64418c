"""How good a model is: the only place that knows lm-eval.

Requests are built once and serve every model; a model's weights are swapped into a living model wherever architecture
and tokenizer allow it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
import torch
from lm_eval import evaluate as run_tasks
from lm_eval.api.task import Task as HarnessTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from src.config import Evaluate, Task
from src.errors import UserError

FEWSHOT_SEED = 1234  # lm-eval's own, so that scores can be held against the leaderboard's

Progress = Callable[[int, int], None]

# lm-eval compiles a task's prompt template anew for every sample; that was 40 % of a small model's evaluation.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=4096)(lm_eval.utils.env.from_string)
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# A run has one bar of its own; libraries' bars would break through it.
lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
disable_progress_bar()
datasets.disable_progress_bars()


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

    @property
    def count(self) -> int:
        """How many samples were scored."""
        return sum(len(scored) for scored in self.samples.values())

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Evaluation:
        """What `asdict` made plain data of, after a trip through JSON."""
        samples = {task: {int(doc): score for doc, score in scored.items()} for task, scored in kept["samples"].items()}
        return cls(kept["scores"], kept["average"], kept["stderr"], samples, kept["weights"], kept["metrics"])

    def save(self, path: Path) -> None:
        """Write it as JSON, with the scores of single samples, beside its place first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        beside.write_text(json.dumps(asdict(self)) + "\n")
        beside.replace(path)


class Evaluator:
    """The tasks of a run, ready to be put to any number of models.

    Attributes:
        holdout: the evaluator of what is held out; None where nothing is. It shares the living model with this one.
    """

    def __init__(
        self,
        settings: Evaluate,
        *,
        seed: int,
        device: str,
        remote_code: bool = False,
        beside: Evaluator | None = None,
    ) -> None:
        """Load the tasks.

        Args:
            settings: tasks, metrics, weights, holdout, limit.
            seed: draws the samples that are held out and those that `limit` leaves, and any sampled generation.
            device: where models are put.
            remote_code: whether a model or a task may execute Python code of its own.
            beside: the evaluator of the tasks that steer; given, this is the one of what is held out.

        Raises:
            UserError: a task that lm-eval does not have, one whose data cannot be reached, an unknown metric.
        """
        self._settings = settings
        self._seed = seed
        others = bool(beside and settings.held_out)
        self._chosen, key = (settings.held_out, "holdout") if others else (settings.tasks, "tasks")
        self._home: _Home = beside._home if beside else _Home(settings, device, remote_code)
        manager = _manager(settings)
        self._loaded = {task.name: _load(manager, task, key) for task in self._chosen}
        leaves = {name: leaf for loaded in self._loaded.values() for name, leaf in loaded["tasks"].items()}
        self._tasks = {
            "tasks": leaves,
            "groups": {name: group for loaded in self._loaded.values() for name, group in loaded["groups"].items()},
            "group_map": {k: v for loaded in self._loaded.values() for k, v in loaded["group_map"].items()},
        }
        self._metrics = {
            leaf: _main_metric(task, harness, key)
            for task in self._chosen
            for leaf, harness in self._loaded[task.name]["tasks"].items()
        }
        self._drawn = {name: _draw(leaf, settings, seed, held_out=beside is not None) for name, leaf in leaves.items()}
        if beside and others and (both := sorted(leaves.keys() & beside._metrics.keys())):
            raise UserError(f"evaluate.holdout has {both[0]}, which steers the search too; name tasks that do not")
        self.holdout: Evaluator | None = None
        if settings.holdout is not None and beside is None:
            self.holdout = Evaluator(settings, seed=seed, device=device, remote_code=remote_code, beside=self)

    @functools.cached_property
    def requests(self) -> int:
        """How many requests one model is asked; they are built when this is first asked for."""
        for name, leaf in self._tasks["tasks"].items():
            leaf.build_all_requests(rank=0, world_size=1, samples=self._drawn[name])
            leaf.build_all_requests = lambda **_: None  # evaluate() would build them again for every model
        return sum(len(leaf.instances) for leaf in self._tasks["tasks"].values())

    @functools.cached_property
    def identity(self) -> str:
        """A digest of all that a score depends on but the model and the seed."""
        assert self.requests
        asked = [(task.name, task.weight, list(self._loaded[task.name]["tasks"])) for task in self._chosen]
        scored = (sorted(self._metrics.items()), self._settings.dtype, self._settings.model_args, self._home.device)
        return _digest_requests(self._tasks["tasks"], asked, scored)

    def evaluate(self, checkpoint: Path, progress: Progress | None = None) -> Evaluation:
        """Score the model in the folder `checkpoint`; `progress` is called with requests done and in all.

        Raises:
            RuntimeError: the model's scores are not finite.
        """
        model = self._home.awaken(checkpoint)
        while True:
            try:
                return self._evaluation(self._answers(model, progress))
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error) or not model.halve_batch():
                    raise

    def _answers(self, model: _LivingModel, progress: Progress | None) -> Mapping[str, Any]:
        model.watch(progress, self.requests)
        for task in self._tasks["tasks"].values():
            for instance in task.instances:
                instance.resps, instance.filtered_resps = [], {}
        torch.manual_seed(self._seed)
        drawn = {name: ids for name, ids in self._drawn.items() if ids is not None} or None  # all tasks', or no task's
        result = run_tasks(lm=model, task_dict=self._tasks, samples=drawn, bootstrap_iters=0)
        assert result is not None
        return result

    def _evaluation(self, result: Mapping[str, Any]) -> Evaluation:
        samples = {
            leaf: {
                sample["doc_id"]: float(sample[metric])
                for sample in result["samples"][leaf]
                if sample["filter"] == chosen and isinstance(sample.get(metric), int | float)
            }
            for leaf, (metric, chosen) in self._metrics.items()
        }
        scores, errors, weights = {}, {}, dict.fromkeys(self._metrics, 0.0)
        total = sum(task.weight for task in self._chosen)
        for task in self._chosen:
            leaves = self._loaded[task.name]["tasks"]
            score, shares = _score(
                result["results"], task.name, {leaf: len(samples[leaf]) for leaf in leaves}, self._metrics
            )
            scores[task.name] = 100 * score
            if not math.isfinite(scores[task.name]):
                raise RuntimeError(f"the score of {task.name} is {scores[task.name]}")
            errors[task.name] = 100 * _stderr([samples[leaf] for leaf in leaves])
            for leaf, share in shares.items():
                weights[leaf] += share * task.weight / total
        average = sum(task.weight * scores[task.name] for task in self._chosen) / total
        stderr = math.sqrt(sum((task.weight * errors[task.name]) ** 2 for task in self._chosen)) / total
        first = {task.name: self._metrics[next(iter(self._loaded[task.name]["tasks"]))] for task in self._chosen}
        metrics = {
            name: metric if chosen == "none" else f"{metric},{chosen}" for name, (metric, chosen) in first.items()
        }
        return Evaluation(scores, average, stderr, samples, weights, metrics)


class _Home:
    """Where the living model is kept, for all evaluators of a run."""

    def __init__(self, settings: Evaluate, device: str, remote_code: bool) -> None:
        self.device = device
        self._settings = settings
        self._remote_code = remote_code
        self._living: _LivingModel | None = None
        self._identity = ""

    def awaken(self, checkpoint: Path) -> _LivingModel:
        """The living model with this checkpoint's weights; another model where architecture or tokenizer differ."""
        identity = surroundings(checkpoint)
        if self._living is not None and identity == self._identity:
            self._living.take_weights(checkpoint)
            return self._living
        self._living = None  # frees the memory of the model before
        self._living = _LivingModel(checkpoint, self._settings, self.device, self._remote_code)
        self._identity = identity
        return self._living


class _LivingModel(HFLM):
    """An lm-eval model that can take the weights of another, tokenises each text once, and reports its progress."""

    def __init__(self, checkpoint: Path, settings: Evaluate, device: str, remote_code: bool) -> None:
        dtype = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(checkpoint), dtype=dtype, trust_remote_code=remote_code, use_safetensors=True
        )
        loaded.to(device)
        tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=remote_code)
        arguments: dict[str, Any] = {"batch_size": settings.batch_size, **settings.model_args}
        super().__init__(pretrained=loaded.eval(), tokenizer=tokenizer, device=device, **arguments)
        self._encode_pair = functools.lru_cache(maxsize=None)(super()._encode_pair)
        self._progress: Progress | None = None
        self._done = self._total = 0

    def take_weights(self, checkpoint: Path) -> None:
        """Replace the weights by those of a checkpoint of the same shapes and dtypes."""
        expected = {name: value.dtype for name, value in self.model.state_dict().items()}
        weights: dict[str, torch.Tensor] = {}
        for shard in sorted(checkpoint.glob("*.safetensors")):
            weights |= load_file(shard)
        weights = {name: value.to(expected[name]) for name, value in weights.items() if name in expected}
        missing, _ = self.model.load_state_dict(weights, strict=False)
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        if left := set(missing) - tied:
            raise RuntimeError(f"{checkpoint} lacks {sorted(left)[0]}, which the model needs")
        self.model.tie_weights()

    def halve_batch(self) -> bool:
        """Use half the batch from now on; False where it is 1 already, or lm-eval finds it itself (auto)."""
        if not isinstance(self.batch_size_per_gpu, int) or self.batch_size_per_gpu < 2:
            return False
        self.batch_size_per_gpu //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def watch(self, progress: Progress | None, total: int) -> None:
        """Report to `progress` from now on."""
        self._progress, self._done, self._total = progress, 0, total

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As lm-eval's, without its progress bars."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """As lm-eval's, without its progress bars."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As lm-eval's, without its progress bars."""
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        logits = super()._model_call(inps, *args, **kwargs)
        self._advance(len(inps))
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = super()._model_generate(context, *args, **kwargs)
        self._advance(len(context))
        return tokens

    def _advance(self, rows: int) -> None:
        self._done = min(self._done + rows, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)


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


def _manager(settings: Evaluate) -> TaskManager:
    include = None if settings.include is None else str(settings.include)
    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if all(task.name in own.all_tasks for task in (*settings.tasks, *settings.held_out)):
            return own
    return TaskManager(include_path=include) if include else _everything()


def _load(manager: TaskManager, task: Task, key: str) -> dict[str, Any]:
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


def _main_metric(task: Task, leaf: HarnessTask, key: str) -> tuple[str, str]:
    """Metric and filter of a task, as lm-eval names them in its results."""
    filters = [chain.name for chain in getattr(leaf, "_filters", [])] or ["none"]
    known = list(leaf.aggregation())
    metric, _, chosen = (task.metric or known[0]).partition(",")
    if metric not in known or (chosen and chosen not in filters):
        names = ", ".join(f"{m},{f}" if f != "none" else m for m in known for f in filters)
        raise UserError(f"evaluate.{key}: {task.name} has no metric {task.metric!r}. Known: {names}.")
    return metric, chosen or filters[0]


def _draw(leaf: HarnessTask, settings: Evaluate, seed: int, *, held_out: bool) -> list[int] | None:
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


def _digest_requests(leaves: Mapping[str, HarnessTask], *how: Any) -> str:
    """A digest of every prompt and document, and of how they are scored."""
    digest = hashlib.sha256(repr(how).encode())
    for name, leaf in leaves.items():
        for instance in leaf.instances:
            digest.update(repr((name, instance.doc_id, instance.idx, instance.args, instance.doc)).encode())
    return digest.hexdigest()


def _score(
    results: Mapping[str, Mapping[str, Any]],
    name: str,
    sizes: Mapping[str, int],
    metrics: Mapping[str, tuple[str, str]],
) -> tuple[float, dict[str, float]]:
    """The score of a task of the configuration, and the share in it of each lm-eval task.

    That is lm-eval's own figure for a task or an aggregated group; of any other group or tag, the mean of its tasks.
    """
    key = ",".join(metrics[next(iter(sizes))])
    if name in results and key in results[name]:
        total = sum(sizes.values())
        return float(results[name][key]), {leaf: size / total if total else 0.0 for leaf, size in sizes.items()}
    return (
        fmean(float(results[leaf][",".join(metrics[leaf])]) for leaf in sizes),
        dict.fromkeys(sizes, 1 / len(sizes)),
    )


def _stderr(samples: Sequence[Mapping[int, float]]) -> float:
    values = [value for scored in samples for value in scored.values()]
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


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
