"""Evaluation in pieces: the scores are lm-eval's own, for every kind of request, and however the batches are cut."""

import json
import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from src.config import Evaluate
from src.evaluation.evaluator import Evaluation, Evaluator
from tests.family import TASKS

KINDS = {
    "generated": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}?",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["?"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "rolled": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "told": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of each kind of request that lm-eval knows, beside the pico family's of several choices."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"question": "abc"[: 1 + i % 3] * (1 + i % 5), "answer": "ab"[i % 2]} for i in range(20)]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    for name, kind in KINDS.items():
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **kind,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def asked(tasks: list[str], include: Path, **changes: Any) -> Evaluate:
    usual = {"holdout": None, "limit": None, "batch_size": 16, "backend": "hf", "dtype": "auto", "model_args": {}}
    return Evaluate(**{"tasks": tasks, "include": include, **usual, **changes})


def plainly(model: Path, names: list[str], include: Path) -> dict[str, Any]:
    """The results of lm-eval alone, a model and its tasks made anew."""
    manager = TaskManager(include_path=str(include), include_defaults=False)
    lm = HFLM(pretrained=str(model), device="cpu", batch_size=16)
    found: Any = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, num_fewshot=0, bootstrap_iters=0)
    results: dict[str, Any] = found["results"]
    return results


def test_the_scores_of_choices_are_lm_evals_own(family: Path) -> None:
    evaluator = Evaluator(asked([{"name": TASKS[0], "metric": "acc_norm"}, TASKS[1]], family / "tasks"), seed=0)  # type: ignore[list-item]
    for founder in ("red", "green", "red"):
        found = evaluator.evaluate(family / founder)
        expected = plainly(family / founder, list(TASKS), family / "tasks")
        assert found.scores[TASKS[0]] == 100 * expected[TASKS[0]]["acc_norm,none"]
        assert found.scores[TASKS[1]] == 100 * expected[TASKS[1]]["acc,none"]


def test_the_scores_of_every_other_kind_of_request_are_lm_evals_own(family: Path, tasks: Path) -> None:
    names = ["generated", {"name": "rolled", "metric": "bits_per_byte"}, {"name": "told", "metric": "perplexity"}]
    evaluator = Evaluator(asked(names, tasks), seed=0)  # type: ignore[arg-type]
    for founder in ("blue", "grey"):
        found = evaluator.evaluate(family / founder)
        expected = plainly(family / founder, list(KINDS), tasks)
        assert found.scores["generated"] == 100 * expected["generated"]["exact_match,none"]
        assert found.scores["rolled"] == pytest.approx(100 * expected["rolled"]["bits_per_byte,none"], rel=1e-6)
        assert found.scores["told"] == pytest.approx(100 * expected["told"]["perplexity,none"], rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 3},
        {"batch_size": "auto"},
        {"model_args": {"attn_implementation": "eager"}},
        {"model_args": {"max_length": 40, "add_bos_token": False}},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_whatever_reaches_lm_evals_model(family: Path, changes: dict[str, Any]) -> None:
    usual = Evaluator(asked(list(TASKS), family / "tasks"), seed=0).evaluate(family / "red")
    evaluator = Evaluator(asked(list(TASKS), family / "tasks", **changes), seed=0)
    found: Evaluation = evaluator.evaluate(family / "red")
    loaded = evaluator._models._model
    assert loaded is not None
    if "dtype" in changes:
        assert loaded.model.dtype == torch.bfloat16
        assert math.isfinite(found.average)
        return
    assert found.scores == usual.scores
    for key, value in changes.get("model_args", {}).items():
        assert getattr(loaded.model.config, f"_{key}", None) == value or getattr(loaded, key) == value


def test_an_answer_is_the_same_bit_for_bit_in_memory_as_on_disk_and_after_other_models(family: Path) -> None:
    from src.models.checkpoint import tensors_of

    first, second = (Evaluator(asked(list(TASKS), family / "tasks"), seed=0) for _ in range(2))
    on_disk = first.evaluate(family / "green")
    second.evaluate(family / "red")
    tensors = tensors_of(family / "green")
    assert second.evaluate(family / "green", tensors) == on_disk
    _, _, pieces = first._models.load(family / "green", None, first._asked)
    reused, _, _ = second._models.load(family / "green", tensors, second._asked)
    fresh, _, _ = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)._models.load(
        family / "green", tensors, first._asked
    )
    for piece in pieces:
        assert reused.answer(piece, first.requests) == fresh.answer(piece, first.requests)
