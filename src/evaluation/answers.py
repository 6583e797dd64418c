"""Answers in the shape that lm-eval takes: a model's, given before; or made up, to see whether a task can score any."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lm_eval import evaluate as run_tasks
from lm_eval.api.model import LM
from lm_eval.api.task import Task as HarnessTask

from src.evaluation.tasks import Sheet, blaming


class Answered(LM):
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


def by_kind(leaves: Mapping[str, HarnessTask]) -> dict[str, list[Any]]:
    """The requests of all tasks in the order in which lm-eval asks them, repeated ones as often as they are asked."""
    found: dict[str, list[Any]] = {}
    for leaf in leaves.values():
        for instance in leaf.instances:
            found.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
    return found


def try_out(leaf: HarnessTask, sheet: Sheet, metric: tuple[str, str]) -> None:
    """Have a task score answers that nobody gave; `metric` is its main one, and the filter.

    A metric may not like some of them, but one that can score neither nothing, nor this and that, nor what is right,
    can score no model. A task that executes what a model wrote is not tried.

    Raises:
        UserError: none could be scored; what was wrong with the first.
    """
    if getattr(leaf, "UNSAFE_CODE", False):
        return
    failures = []
    for make_up in (_nothing, _this_and_that, _right):
        sheet.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _score(leaf, make_up, ",".join(metric))
            break
        except Exception as error:  # whatever a metric may raise
            failures.append(error)
    else:
        with blaming(leaf, f"its metric {metric[0]} can score no answer"):
            raise failures[0]
    sheet.clear()


def _score(leaf: HarnessTask, make_up: Callable[[HarnessTask, int, Any], Any], metric: str) -> None:
    """Raise unless the task's metric comes to a finite number for made-up answers."""
    asked = by_kind({leaf.task_name: leaf})
    answers = {kind: [make_up(leaf, place, one) for place, one in enumerate(all_)] for kind, all_ in asked.items()}
    task: Any = {"tasks": {leaf.task_name: leaf}}
    result: Any = run_tasks(lm=Answered(answers), task_dict=task, bootstrap_iters=0, log_samples=False)
    scores: Mapping[str, Any] = result["results"][leaf.task_name]
    if metric not in scores:
        there = sorted(key for key in scores if "," in key and "_stderr" not in key)
        raise LookupError(f"it gives {', '.join(there) or 'nothing'}, not {metric}")
    if not math.isfinite(float(scores[metric])):
        raise ValueError(f"it gives {scores[metric]!r}, which is no number")


def _nothing(leaf: HarnessTask, place: int, request: Any) -> Any:
    return {"generate_until": "", "loglikelihood": (0.0, False)}.get(request.request_type, 0.0)


def _this_and_that(leaf: HarnessTask, place: int, request: Any) -> Any:
    probability = -1.0 - place % 7
    return {"generate_until": str(place), "loglikelihood": (probability, place % 2 == 0)}.get(
        request.request_type, probability
    )


def _right(leaf: HarnessTask, place: int, request: Any) -> Any:
    target = leaf.doc_to_target(request.doc)
    if isinstance(target, list) and target:
        target = target[0]
    if request.request_type == "generate_until":
        return str(target)
    right = target in (request.idx, request.args[-1].strip())
    return (-0.5 if right else -5.0, right) if request.request_type == "loglikelihood" else -0.5 - place % 7
