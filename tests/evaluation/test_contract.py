"""What every evaluator must hold to: lm-eval's tasks, and the evaluator of docs/extending.md."""

from pathlib import Path
from typing import Any

import pytest

from src.config import Evaluate
from src.evaluation.base import BaseEvaluator, Evaluation
from src.evaluation.evaluator import Evaluator
from src.models.checkpoint import tensors_of
from tests.docs import own
from tests.family import FOUNDERS, TASKS

EVALUATORS: dict[str, type[BaseEvaluator]] = {"lm-eval": Evaluator, "mine": own("evaluator")["Smallness"]}


def evaluator(name: str, family: Path, *tasks: str) -> BaseEvaluator:
    usual: dict[str, Any] = {"holdout": None, "limit": None, "batch_size": 16, "backend": "hf", "dtype": "auto"}
    settings = Evaluate(tasks=tasks or TASKS, include=family / "tasks", model_args={}, **usual)  # type: ignore[arg-type]
    return EVALUATORS[name](settings, seed=0)


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluation_is_of_the_tasks_and_adds_up(name: str, family: Path) -> None:
    found = evaluator(name, family).evaluate(family / "red")
    assert list(found.scores) == list(TASKS)
    assert found.average == pytest.approx(sum(found.scores.values()) / len(TASKS))
    assert found.stderr >= 0
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.weights.keys() == found.samples.keys()
    means = {task: sum(scored.values()) / len(scored) for task, scored in found.samples.items()}
    assert 100 * sum(found.weights[task] * mean for task, mean in means.items()) == pytest.approx(found.average)
    assert Evaluation.from_dict(found.as_dict()) == found


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_model_is_worth_the_same_every_time_whoever_was_asked_before(name: str, family: Path) -> None:
    one, other = (evaluator(name, family) for _ in range(2))
    alone = {founder: other.evaluate(family / founder) for founder in reversed(FOUNDERS)}
    assert {founder: one.evaluate(family / founder) for founder in FOUNDERS} == alone
    assert len({found.average for found in alone.values()}) > 1


@pytest.mark.parametrize("name", EVALUATORS)
def test_what_is_asked_decides_the_identity(name: str, family: Path) -> None:
    assert evaluator(name, family).identity == evaluator(name, family).identity
    assert evaluator(name, family).identity != evaluator(name, family, TASKS[0]).identity


@pytest.mark.parametrize("name", EVALUATORS)
def test_weights_in_memory_are_worth_what_they_are_on_disk(name: str, family: Path) -> None:
    asked = evaluator(name, family)
    if not asked.in_memory:
        pytest.skip("it takes weights from disk alone")
    folder = family / "red"
    assert asked.evaluate(folder, tensors_of(folder)) == asked.evaluate(folder)
