"""Precomputed answers in the shape that lm-eval takes: a model's, or made-up ones that validate a task's metric."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lm_eval import evaluate as run_tasks
from lm_eval.api.model import LM
from lm_eval.api.task import Task as HarnessTask

from src.evaluation.tasks import TaskRequests, attribute_errors


class PrecomputedLM(LM):
    """An lm-eval model that returns precomputed answers."""

    def __init__(self, answers: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self._answers = answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it."""
        return self._answers["loglikelihood"]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return the log-probability of each text."""
        return self._answers["loglikelihood_rolling"]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the generated texts."""
        return self._answers["generate_until"]


def requests_by_type(leaves: Mapping[str, HarnessTask]) -> dict[str, list[Any]]:
    """Return the requests of all tasks by type, in lm-eval's order; repeated ones as often as they are asked."""
    found: dict[str, list[Any]] = {}
    for leaf in leaves.values():
        for instance in leaf.instances:
            found.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
    return found


def validate_metric(leaf: HarnessTask, requests: TaskRequests, metric: tuple[str, str]) -> None:
    """Check that a task's main metric, under a filter, can score made-up answers to its requests.

    A metric may reject some of them, but one that can score neither empty, nor varied, nor correct answers can score
    no model: UserError gives the first error. A task that executes generated code is not tried.
    """
    if getattr(leaf, "UNSAFE_CODE", False):
        return
    failures = []
    for answer in (_empty_answer, _varied_answer, _correct_answer):
        requests.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _score(leaf, answer, ",".join(metric))
            break
        except Exception as error:  # whatever a metric may raise
            failures.append(error)
    else:
        with attribute_errors(leaf, f"its metric {metric[0]} can score no answer"):
            raise failures[0]
    requests.clear()


def _score(leaf: HarnessTask, answer: Callable[[HarnessTask, int, Any], Any], metric: str) -> None:
    """Raise unless the task's metric gives a finite number for made-up answers."""
    asked = requests_by_type({leaf.task_name: leaf})
    answers = {kind: [answer(leaf, place, one) for place, one in enumerate(all_)] for kind, all_ in asked.items()}
    task: Any = {"tasks": {leaf.task_name: leaf}}
    result: Any = run_tasks(lm=PrecomputedLM(answers), task_dict=task, bootstrap_iters=0, log_samples=False)
    scores: Mapping[str, Any] = result["results"][leaf.task_name]
    if metric not in scores:
        there = sorted(key for key in scores if "," in key and "_stderr" not in key)
        raise LookupError(f"it gives {', '.join(there) or 'nothing'}, not {metric}")
    if not math.isfinite(float(scores[metric])):
        raise ValueError(f"it gives {scores[metric]!r}, which is no number")


def _empty_answer(leaf: HarnessTask, place: int, request: Any) -> Any:
    return {"generate_until": "", "loglikelihood": (0.0, False)}.get(request.request_type, 0.0)


def _varied_answer(leaf: HarnessTask, place: int, request: Any) -> Any:
    probability = -1.0 - place % 7
    return {"generate_until": str(place), "loglikelihood": (probability, place % 2 == 0)}.get(
        request.request_type, probability
    )


def _correct_answer(leaf: HarnessTask, place: int, request: Any) -> Any:
    target = leaf.doc_to_target(request.doc)
    if isinstance(target, list) and target:
        target = target[0]
    if request.request_type == "generate_until":
        return str(target)
    right = target in (request.idx, request.args[-1].strip())
    return (-0.5 if right else -5.0, right) if request.request_type == "loglikelihood" else -0.5 - place % 7
