"""lm-eval's own humaneval and mbpp: refused in a line unless they are allowed, and scored where they are.

Their data sets and the metric that runs what a model wrote lie on the hub; here stand-ins of the same shape lie where
`datasets` and `evaluate` look first: in the current folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.evaluation.definition import SHIPPED
from src.journal import parse
from tests.conftest import Command
from tests.test_mistakes import check_refused

METRIC = """
import os

import datasets
import evaluate


class CodeEval(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
        return evaluate.MetricInfo("", "", datasets.Features(features))

    def _compute(self, predictions, references, k=(1,), **more):
        if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
            raise ValueError("not allowed")
        passed = [passes(one, test) for many, test in zip(predictions, references) for one in many]
        return {"pass@1": sum(passed) / len(passed)}, {}


def passes(program, test):
    try:
        exec(f"{program}\\n{test}", {})
    except BaseException:
        return False
    return True
"""
NUMBERS = range(1, 7)
HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f"def add{n}(x):\n",
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
        "entry_point": f"add{n}",
    }
    for n in NUMBERS
]
MBPP = [
    {
        "task_id": n,
        "text": f"Add {n}.",
        "code": f"def add{n}(x):\n    return x + {n}",
        "test_list": [f"assert add{n}({x}) == {x + n}" for x in range(3)],
    }
    for n in NUMBERS
]
DATA = {"humaneval": ("openai/openai_humaneval", HUMANEVAL), "mbpp": ("google-research-datasets/mbpp", MBPP)}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What asks for both, under names of their own: lm-eval's index of all its tasks takes ten seconds to read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "code_eval").mkdir()
    (tmp_path / "code_eval/code_eval.py").write_text(METRIC)
    for name, (place, documents) in DATA.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        config = {"include": str(SHIPPED / name / f"{name}.yaml"), "task": f"own_{name}", "dataset_name": None}
        (tmp_path / f"tasks/{name}.yaml").write_text(yaml.safe_dump(config))
    return ["evaluate.tasks=[own_humaneval,own_mbpp]", "evaluate.include=tasks", "evaluate.gen_kwargs.max_gen_toks=8"]


def right_answers(lm: Any, requests: Sequence[Any]) -> list[tuple[str, int]]:
    """Right for two documents of three."""
    found = []
    for one in requests:
        right = one.doc.get("canonical_solution") or one.doc["code"]
        found.append((right if int(str(one.doc["task_id"]).rpartition("/")[2]) % 3 else "    pass", 0))
    return found


@pytest.mark.parametrize("given", ["dry_run=true", "dry_run=false"])
def test_they_are_refused_before_any_work_unless_they_are_allowed(
    evolve: Command, tasks: list[str], tmp_path: Path, given: str
) -> None:
    outcome = evolve(*tasks, given)
    check_refused(outcome, "has unsafe_code, which executes what a model wrote; look at it, and allow it with")
    assert "evaluate.unsafe_code=true" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("metric", ["", ", metric: pass@1", ', metric: "pass@1,create_test"'])
def test_what_models_wrote_is_executed_and_scored(
    evolve: Command, tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    monkeypatch.setattr("src.evaluation.model.generate", right_answers)
    asked = f"evaluate.tasks=[{{name: own_humaneval{metric}}},own_mbpp]"
    outcome = evolve(*tasks, asked, "evaluate.unsafe_code=true", "stop.generations=1", "strategy.k=2")
    assert outcome.status == 0, outcome.err
    events = parse(tmp_path / "outputs/run/journal.jsonl")[0]
    for event in (one for one in events if one["event"] == "evaluated"):
        assert event["scores"] == pytest.approx({"own_humaneval": 200 / 3, "own_mbpp": 200 / 3})
        assert event["metrics"] == {"own_humaneval": "pass@1,create_test", "own_mbpp": "pass_at_1"}


def test_a_pico_model_writes_no_program(evolve: Command, tasks: list[str], tmp_path: Path) -> None:
    outcome = evolve(*tasks, "evaluate.unsafe_code=true", "strategy=one_shot")
    assert outcome.status == 0, outcome.err
    scores = [one["average"] for one in parse(tmp_path / "outputs/run/journal.jsonl")[0] if one["event"] == "evaluated"]
    assert scores == [0.0] * 5


def test_a_metric_that_the_task_does_not_have(evolve: Command, tasks: list[str]) -> None:
    outcome = evolve(*tasks, "evaluate.tasks=[{name: own_humaneval, metric: pass@2}]", "evaluate.unsafe_code=true")
    check_refused(outcome, "evaluate.tasks: own_humaneval has no metric 'pass@2'. Known: pass@1,create_test.")
