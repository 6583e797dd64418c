"""Evaluation of models on lm-eval's tasks.

Requests are built once and serve every model; weights are swapped into a loaded model wherever architecture and
tokenizer allow it.
"""

from __future__ import annotations

import copy
import functools
import gc
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lm_eval import evaluate as run_tasks

from src.config import Evaluate
from src.evaluation.answers import PrecomputedLM, requests_by_type, validate_metric
from src.evaluation.base import BaseEvaluator, Evaluation, Progress, Share, alone, stderr_of
from src.evaluation.batches import Piece
from src.evaluation.chat import template_key
from src.evaluation.model import Requests, ReusableModel, Tensors, VLLMModel
from src.evaluation.responses import agree, assemble, scores_of, whole
from src.evaluation.tasks import TaskRequests, divide, draw, load, main_metric, task_manager
from src.journal import CutOff
from src.models import digest
from src.models.checkpoint import tensors_of
from src.runtime.errors import UserError
from src.surrogate.questions import Answers


class Evaluator(BaseEvaluator):
    """lm-eval's tasks, ready to be put to any number of models.

    Attributes:
        holdout: the evaluator of what is held out; None where nothing is. It shares the loaded model with this one.
    """

    def __init__(
        self,
        settings: Evaluate,
        *,
        seed: int,
        devices: Sequence[str] = ("cpu",),
        remote_code: bool = False,
        selection: Evaluator | None = None,
    ) -> None:
        """Load the tasks, build their requests, and validate their metrics on made-up answers.

        Args:
            settings, seed, devices, remote_code: as BaseEvaluator has them.
            selection: the evaluator of the tasks that steer the search; with it, this is that of the holdout.

        Raises:
            UserError: a task that lm-eval does not have, one whose data cannot be reached, an unknown metric, one that
                can score nothing.
        """
        self._settings = settings
        others = bool(selection and settings.held_out)
        self._chosen, key = (settings.held_out, "holdout") if others else (settings.tasks, "tasks")
        self._models: _ModelCache = (
            selection._models if selection else _ModelCache(settings, devices, seed, remote_code)
        )
        manager = task_manager(settings)
        self._loaded = {task.name: load(manager, task, settings.gen_kwargs) for task in self._chosen}
        self._tasks: dict[str, dict[str, Any]] = {
            kind: {name: one for loaded in self._loaded.values() for name, one in loaded[kind].items()}
            for kind in ("tasks", "groups", "group_map")
        }
        leaves = self._tasks["tasks"]
        self._prompting: dict[str, Any] = {
            "system_instruction": settings.system_instruction,
            "fewshot_as_multiturn": settings.fewshot_as_multiturn,
        }
        self._in_templates: dict[str, Requests] = {}
        self._task_requests = {
            name: TaskRequests(leaf, draw(leaf, settings, seed, held_out=selection is not None), **self._prompting)
            for name, leaf in leaves.items()
        }
        self._metrics = {
            leaf: main_metric(task, self._task_requests[leaf].metric_names(), self._task_requests[leaf].filters, key)
            for task in self._chosen
            for leaf in self._loaded[task.name]["tasks"]
        }
        for name, leaf in leaves.items():
            validate_metric(leaf, self._task_requests[name], self._metrics[name])
        self._parts: dict[int, Evaluator] = {}
        self._divided = {
            name: divide(asked, settings, seed) for name, asked in self._task_requests.items() if selection is None
        }
        if selection and others and (both := sorted(leaves.keys() & selection._metrics.keys())):
            raise UserError(f"evaluate.holdout has {both[0]}, which steers the search too; name tasks that do not")
        self.holdout: Evaluator | None = None
        if settings.holdout is not None and selection is None:
            self.holdout = Evaluator(settings, seed=seed, devices=devices, remote_code=remote_code, selection=self)

    @functools.cached_property
    def requests(self) -> Requests:
        """What one model is asked, as plain text."""
        found = requests_by_type(self._tasks["tasks"])
        gc.collect()
        gc.freeze()  # they stay for good; the collector need not walk over them during every evaluation
        return found

    @functools.cached_property
    def identity(self) -> str:
        """A digest of all that a score depends on but the model and the seed."""
        asked = [(task.name, task.weight, list(self._loaded[task.name]["tasks"])) for task in self._chosen]
        how: tuple[Any, ...] = (
            *(self._settings.backend, self._settings.dtype, self._settings.model_args, self._models.kind),
        )
        if self._settings.apply_chat_template:  # which one is in the digest of the model's surroundings
            how += (self._settings.apply_chat_template, sorted(self._prompting.items()))
        if self._settings.share_prefixes:
            how += ("prefixes shared",)  # log-likelihoods differ in their last digits
        if "generate_until" in self.requests:
            how += ("cut off",)  # counted, which it was not in evaluations that are remembered from before
        whole = hashlib.sha256(repr((asked, sorted(self._metrics.items()), how)).encode())
        for name, leaf in self._tasks["tasks"].items():
            for one in leaf.instances:  # every prompt and document
                whole.update(repr((name, one.doc_id, one.idx, one.args, one.doc)).encode())
        return whole.hexdigest()

    @property
    def in_memory(self) -> bool:
        """Whether models can be evaluated whose weights are not on disk."""
        return self._settings.backend == "hf"

    def part(self, number: int) -> Evaluator:
        """Return the evaluator of a part of each task's samples, which shares the loaded model and tasks with this."""
        if number not in self._parts:
            part = copy.copy(self)
            for known in ("requests", "identity"):
                part.__dict__.pop(known, None)
            part._in_templates = {}
            part._task_requests = {
                name: asked.part(self._divided[name][number]) for name, asked in self._task_requests.items()
            }
            part._tasks = self._tasks | {"tasks": {name: asked.leaf for name, asked in part._task_requests.items()}}
            self._parts[number] = part
        return self._parts[number]

    def evaluate(
        self, folder: Path, tensors: Tensors | None = None, progress: Progress | None = None, share: Share = alone
    ) -> Evaluation:
        """Evaluate a model as BaseEvaluator.evaluate describes, with lm-eval's own scores."""
        model, requests, pieces = self.prepare(folder, tensors)

        def answer(number: int) -> list[Any]:
            found = model.answer(pieces[number], requests)
            if progress is not None:
                progress(number + 1, len(pieces))
            return found

        try:
            answers = share(len(pieces), answer)
        finally:
            if isinstance(model, VLLMModel):
                model.close()
        evaluation = self._evaluation(self._results(pieces, answers))
        return replace(evaluation, cut_off=_cut_off(pieces, answers, requests))

    @property
    def sides(self) -> tuple[Evaluator, ...]:
        """This one, and that of the holdout if there is one."""
        return (self,) if self.holdout is None else (self, self.holdout)

    @property
    def devices(self) -> Sequence[str]:
        """Where models are put."""
        return self._models.devices

    def prepare(
        self, folder: Path, tensors: Tensors | None = None
    ) -> tuple[ReusableModel | VLLMModel, Requests, list[Piece]]:
        """Return a loaded model, what it is asked, and that in pieces; arguments as those of `evaluate`."""
        return self._models.load(folder, tensors, self._asked)

    def shown(self) -> dict[str, tuple[int, str, str]]:
        """Return the number of samples, the number of examples and the metric of each task of the configuration."""
        found, metrics = {}, self._metric_names()
        for task in self._chosen:
            leaves = self._loaded[task.name]["tasks"]
            shots = sorted({leaf.get_config("num_fewshot") for leaf in leaves.values()})
            samples = sum(len(self._task_requests[leaf]) for leaf in leaves)
            found[task.name] = samples, ", ".join(map(str, shots)), metrics[task.name]
        return found

    def _metric_names(self) -> dict[str, str]:
        """Return lm-eval's name of each task's score."""
        first = {task.name: self._metrics[next(iter(self._loaded[task.name]["tasks"]))] for task in self._chosen}
        return {name: metric if chosen == "none" else f"{metric},{chosen}" for name, (metric, chosen) in first.items()}

    def _asked(self, model: ReusableModel | VLLMModel) -> Requests:
        """Return what this model is asked: in its own chat template, if one is to be applied."""
        if not self._settings.apply_chat_template:
            return self.requests
        assert self.identity  # found before: a template is no part of it
        key = template_key(model.lm)
        for asked in self._task_requests.values():
            asked.apply_template(key, model.lm.apply_chat_template)
        if key not in self._in_templates:
            self._in_templates[key] = requests_by_type(self._tasks["tasks"])
        return self._in_templates[key]

    def asked(self) -> list[tuple[TaskRequests, str, float]]:
        """Return every lm-eval task's requests, its main metric, and what it counts in the average; these sum to 1.

        The requests are in the chat template of the last model, if one is applied.
        """
        return [(self._task_requests[leaf], self._metrics[leaf][0], weight) for leaf, weight in self._weights().items()]

    def _weights(self) -> dict[str, float]:
        """Return what each lm-eval task counts in the average."""
        total, weights = sum(task.weight for task in self._chosen), dict.fromkeys(self._metrics, 0.0)
        for task in self._chosen:
            for leaf, share in self._shares(task.name).items():
                weights[leaf] += share * task.weight / total
        return weights

    def model(self, folder: Path) -> ReusableModel:
        """Return the loaded model, with the weights of a checkpoint, for whoever computes more than answers with it.

        It serves the next evaluation as before, whatever its weights have become by then.
        """
        model, *_ = self.prepare(folder)
        assert isinstance(model, ReusableModel), "a backend that gives gradients"
        return model

    def _results(self, pieces: Sequence[Piece], answers: Sequence[list[Any]]) -> Mapping[str, Any]:
        """Return lm-eval's results for the answers."""
        found: dict[str, list[Any]] = {kind: [None] * len(asked) for kind, asked in self.requests.items()}
        for piece, given in zip(pieces, answers, strict=True):
            for place, one in zip(piece.places, given, strict=True):
                answer = one[0] if piece.kind == "generate_until" else one
                found[piece.kind][place] = tuple(answer) if isinstance(answer, list) else answer
        for asked in self._task_requests.values():
            asked.clear()
        result: Any = run_tasks(
            lm=PrecomputedLM(found),
            task_dict=self._tasks,
            bootstrap_iters=0,
            log_samples=False,
            confirm_run_unsafe_code=self._settings.unsafe_code,
        )
        return result["results"]

    def _evaluation(self, results: Mapping[str, Any]) -> Evaluation:
        samples = {leaf: self._task_requests[leaf].scores(*self._metrics[leaf]) for leaf in self._metrics}
        scores, errors = {}, {}
        total = sum(task.weight for task in self._chosen)
        for task in self._chosen:
            leaves = self._loaded[task.name]["tasks"]
            scores[task.name] = 100 * self._score(results, task.name, list(leaves))
            if not math.isfinite(scores[task.name]):
                raise RuntimeError(f"the score of {task.name} is {scores[task.name]}")
            errors[task.name] = stderr_of([value for leaf in leaves for value in samples[leaf].values()])
        average = sum(task.weight * scores[task.name] for task in self._chosen) / total
        stderr = math.sqrt(sum((task.weight * errors[task.name]) ** 2 for task in self._chosen)) / total
        answers = self._answers(results, scores)
        counted, metrics = self._weights(), self._metric_names()
        return Evaluation(scores, average, stderr, samples, counted, metrics, answers=answers, errors=errors)

    def _score(self, results: Mapping[str, Mapping[str, Any]], name: str, leaves: Sequence[str]) -> float:
        """Return the score of a task of the configuration, which has these lm-eval tasks.

        That is lm-eval's own figure of a task or an aggregated group; of any other group or tag, its tasks' mean.
        """
        mains = [",".join(self._metrics[leaf]) for leaf in leaves]
        if name not in results or mains[0] not in results[name]:
            return fmean(float(results[leaf][main]) for leaf, main in zip(leaves, mains, strict=True))
        return float(results[name][mains[0]])

    def _shares(self, name: str) -> dict[str, float]:
        """Return what each lm-eval task counts in a task of the configuration: by size where lm-eval does so."""
        loaded = self._loaded[name]
        sizes = {leaf: len(self._task_requests[leaf]) for leaf in loaded["tasks"]}
        metric, _ = self._metrics[next(iter(sizes))]
        aggregated = getattr(loaded["groups"].get(name), "aggregate_metric_list", None) or ()
        by_size = all(one.weight_by_size for one in aggregated if one.metric == metric)
        even = not any(one.metric == metric for one in aggregated) or not by_size
        return {leaf: 1 / len(sizes) if even else size / sum(sizes.values()) for leaf, size in sizes.items()}

    def _answers(self, results: Mapping[str, Any], scores: Mapping[str, float]) -> Answers:
        """Return the answers, of which the scores of the configuration's tasks follow."""
        blocks, seen = {}, set[str]()
        for name in scores:
            counted = self._shares(name)
            blocks[name] = [
                self._task_requests[leaf].block(
                    share, *self._metrics[leaf], float(results[leaf][",".join(self._metrics[leaf])])
                )
                for leaf, share in counted.items()
            ]
            if seen & counted.keys():  # an lm-eval task that is asked for two of the configuration's
                blocks[name] = [whole(name, 1.0, scores[name] / 100)]
            seen |= counted.keys()
        answers = assemble(blocks)
        found = scores_of(answers)
        if differ := [name for name in scores if not agree({name: found[name]}, {name: scores[name]})]:
            answers = assemble(blocks | {name: [whole(name, 1.0, scores[name] / 100)] for name in differ})
        return answers


class _ModelCache:
    """The loaded model, shared by all evaluators of a run."""

    def __init__(self, settings: Evaluate, devices: Sequence[str], seed: int, remote_code: bool) -> None:
        self.kind = devices[0].partition(":")[0]
        self._settings = settings
        self.devices = devices
        self._options: dict[str, Any] = {"seed": seed, "remote_code": remote_code}
        self._model: ReusableModel | None = None
        self._identity = ""
        self._planned: dict[int, list[Piece]] = {}

    def load(
        self, folder: Path, tensors: Tensors | None, asked: Callable[[ReusableModel | VLLMModel], Requests]
    ) -> tuple[ReusableModel | VLLMModel, Requests, list[Piece]]:
        """Return a model with these weights, what it is asked, and that in pieces.

        The loaded model is reused unless architecture or tokenizer differ. What `asked` gives must outlive this cache.
        """
        if self._settings.backend == "vllm":
            engine = VLLMModel(folder, self._settings, self.devices, **self._options)
            requests = asked(engine)
            return engine, requests, engine.pieces(requests)
        identity = digest.of_surroundings(folder)
        if (
            self._model is None
            or identity != self._identity
            or not self._model.load_weights(tensors or tensors_of(folder))
        ):
            self._model = None  # frees the memory of the model before
            self._model = ReusableModel(folder, tensors, self._settings, self.devices, **self._options)
            if identity != self._identity:
                self._planned.clear()
            self._identity = identity
        requests = asked(self._model)
        if id(requests) not in self._planned:
            self._planned[id(requests)] = self._model.pieces(requests)
        return self._model, requests, self._planned[id(requests)]


def _cut_off(pieces: Sequence[Piece], answers: Sequence[list[Any]], requests: Requests) -> dict[str, CutOff]:
    """Return how many of each lm-eval task's generated answers were cut off; of those only where one was."""
    limits: dict[str, list[int]] = {}
    for piece, given in zip(pieces, answers, strict=True):
        if piece.kind == "generate_until":
            for place, (_, limit) in zip(piece.places, given, strict=True):
                limits.setdefault(requests[piece.kind][place].task_name, []).append(limit)
    return {
        task: CutOff(answers=sum(map(bool, found)), of=len(found), tokens=max(found))
        for task, found in limits.items()
        if any(found)
    }
