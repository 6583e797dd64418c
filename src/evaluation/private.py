"""The parts of lm-eval that are not its public interface: all that is imported, read or replaced, and why.

They were written for the version in VERSION; tests/evaluation/test_private.py fails at any other.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import lm_eval.api.task
import lm_eval.utils
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.model import CacheHook
from lm_eval.api.task import Task as HarnessTask
from lm_eval.tasks._index import Kind as Kind  # the entries of TaskManager.task_index, which is public, carry it
from lm_eval.tasks._yaml_loader import load_yaml as load_yaml  # TaskManager's own imports a file's functions
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    import torch
    from lm_eval.models.huggingface import HFLM
else:
    HFLM = object  # importing it takes seconds, and only who evaluates needs it

VERSION = "0.4.13"


@functools.cache
def patch_globals() -> None:
    """Replace the environment of lm-eval's prompt templates, and silence its log and all progress bars.

    - `lm_eval.utils.env`: from any value, a template can reach everything in Python (().__class__…), which no task
      needs: it becomes a sandbox. lm-eval compiles a task's template anew for every sample, 40 % of a small model's
      evaluation: compiled templates are kept. There is no setting for either.
    - `lm_eval.api.task.tqdm`: a run has a progress bar of its own, and others would break through it; a task takes no
      argument that disables its own.
    """
    plain = lm_eval.utils.env
    sandbox: Any = SandboxedEnvironment(loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=True)
    sandbox.filters.update(plain.filters)
    sandbox.from_string = functools.lru_cache(maxsize=4096)(sandbox.from_string)
    lm_eval.utils.env = sandbox
    lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    disable_progress_bar()
    datasets.disable_progress_bars()


def filter_names(task: HarnessTask) -> list[str]:
    """Return the names of a task's filters (`none`: the answer as it is); the task lists them only in `_filters`."""
    return [chain.name for chain in getattr(task, "_filters", [])] or ["none"]


def part_of_requests(task: HarnessTask, documents: Sequence[tuple[int, Any]]) -> HarnessTask:
    """Return a task that asks only some documents of one whose requests are built, and are not frozen.

    It shares all else with that task. A task lists what it asks in `_instances` only, which no method of it replaces.
    """
    part, places = copy.copy(task), {place for place, _ in documents}
    part._instances = [instance for instance in task.instances if instance.doc_id in places]
    return part


def freeze_requests(
    task: HarnessTask, documents: Sequence[tuple[int, Any]], record: Callable[[Any, Mapping[str, Any]], None]
) -> None:
    """Keep a task's requests and documents for every model, and record the answers and metrics of each document.

    `evaluate` would build the requests and read the documents again for every model, and tells what it finds of single
    documents only with log_samples, which describes every sample at length. The methods are replaced on this task.

    Args:
        task: whose requests are built.
        documents: what `doc_iterator` yields from now on.
        record: called with the answers that each call of `process_results` is given, filtered, and with its result.
    """
    process_results = task.process_results

    def process_and_record(document: Any, answers: Any) -> Any:
        metrics = process_results(document, answers)
        record(answers, metrics)
        return metrics

    task.build_all_requests = lambda **_: None
    task.doc_iterator = lambda **_: iter(documents)
    task.process_results = process_and_record


def set_requests(task: HarnessTask, requests: list[Any]) -> None:
    """Have a task ask these requests; `instances`, which is public, can be read only."""
    task._instances = requests


def generate(lm: Any, requests: Sequence[Any]) -> list[tuple[str, int]]:
    """Return what a model generates for each request, and at how many tokens it was cut off; 0 where it came to an end.

    lm-eval's models return texts alone. What tells a text that was cut off is seen by `_model_generate` only, batch by
    batch; the hook for lm-eval's own cache, which is public, hears of every text in the same order, and of its request.

    Args:
        lm: lm-eval's HFLM (of a causal model) or VLLM.
        requests: of `generate_until`.
    """
    model_generate = lm._model_generate
    limits: list[int] = []
    of_texts: dict[tuple[str, str], list[int]] = {}

    def generate_and_look(**kwargs: Any) -> Any:
        found = model_generate(**kwargs)
        limits.extend(_limits_of_vllm(found, **kwargs) if "sampling_params" in kwargs else _limits(lm, found, **kwargs))
        return found

    class Hook(CacheHook):
        def add_partial(self, attr: str, req: Any, res: Any) -> None:
            of_texts.setdefault((req[0], res), []).append(limits.pop(0))

    lm._model_generate = generate_and_look
    lm.set_cache_hook(Hook(None))
    try:
        texts = lm.generate_until(list(requests), disable_tqdm=True)
    finally:
        del lm._model_generate
        lm.set_cache_hook(CacheHook(None))
    return [(text, of_texts[one.args[0], text].pop()) for one, text in zip(requests, texts, strict=True)]


def _limits(lm: Any, found: torch.Tensor, *, context: torch.Tensor, max_length: int, stop: Any, **_: Any) -> list[int]:
    """Return, for each row that HFLM generated, the tokens it could have if it has them all and no end, or 0."""
    width = context.shape[1]
    if found.shape[1] < max_length:
        return [0] * len(found)
    ends = lm.model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id}
    limits = []
    for row in found[:, width:].tolist():
        text = lm.tok_decode(row, skip_special_tokens=False)
        ended = row[-1] in ends or any(one in text for one in stop if one)
        limits.append(0 if ended else max_length - width)
    return limits


def _limits_of_vllm(found: Sequence[Any], *, sampling_params: Sequence[Any], **_: Any) -> list[int]:
    pairs = zip(found, sampling_params, strict=True)
    return [asked.max_tokens if one.outputs[0].finish_reason == "length" else 0 for one, asked in pairs]


class PrivateHFLM(HFLM):
    """What a subclass of HFLM needs of its protected methods; listed before HFLM among the bases."""

    _collected: list[Any] | None = None

    def encode(self, requests: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
        """Return the tokens of context and continuation of every loglikelihood request.

        lm-eval splits them on the way to `_loglikelihood_tokens` only, which is kept from running the model.
        """
        self._collected = []
        super().loglikelihood(list(requests), disable_tqdm=True)
        collected, self._collected = self._collected, None
        return [(context, continuation) for _, context, continuation in collected]

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        if self._collected is None:
            kwargs["disable_tqdm"] = True  # loglikelihood_rolling does not hand it on
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        self._collected.extend(requests)
        return [(0.0, False)] * len(requests)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return float [rows, width, vocabulary], the model's logits; lm-eval's public methods return sums only."""
        return self._model_call(tokens)

    def halve_batch_size(self) -> bool:
        """Halve the batch size, which is read-only but for this attribute; return False where it is 1 already."""
        smaller = int(self.batch_size) // 2
        self.batch_size_per_gpu = max(1, smaller)
        return smaller > 0
