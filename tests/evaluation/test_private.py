"""lm-eval's private parts: an upgrade fails here, loudly, before it fails anywhere else."""

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.utils
import pytest
from jinja2.exceptions import SecurityError
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task as HarnessTask
from lm_eval.models.huggingface import HFLM

from src.evaluation import private, tasks  # noqa: F401 (tasks patches lm-eval as it is imported)


def test_the_private_parts_are_those_of_the_version_that_is_installed() -> None:
    installed = importlib.metadata.version("lm-eval")
    assert installed.startswith(private.VERSION), (
        f"src/evaluation/private.py was written for lm-eval {private.VERSION}, {installed} is installed; "
        "compare what it imports and replaces, and name the new version there"
    )


def test_a_template_is_compiled_once_and_cannot_reach_python() -> None:
    assert lm_eval.utils.apply_template("{{a | regex_replace('x', 'y')}}\n", {"a": "xx"}) == "yy\n"
    assert lm_eval.utils.env.from_string("{{a}}") is lm_eval.utils.env.from_string("{{a}}")
    with pytest.raises(SecurityError):
        lm_eval.utils.apply_template("{{''.__class__.__mro__}}", {})


def test_yaml_is_read_without_importing_its_functions(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\nprocess_docs: !function code.run\n")
    (tmp_path / "code.py").write_text("raise SystemExit\n")
    found = private.load_yaml(tmp_path / "own.yaml", resolve_func=False)
    assert found == {"task": "own", "process_docs": str(tmp_path / "code.run")}


def test_a_frozen_task_keeps_its_documents_and_records_its_metrics() -> None:
    task: Any = SimpleNamespace(
        _filters=[SimpleNamespace(name="strict")], process_results=lambda document, answers: {"acc": answers[0]}
    )
    recorded: list[Any] = []
    private.freeze_requests(task, [(3, "three")], lambda *found: recorded.append(found))
    assert task.build_all_requests(rank=0, world_size=1) is None
    assert [list(task.doc_iterator(rank=0, world_size=1)) for _ in range(2)] == [[(3, "three")]] * 2
    assert task.process_results("three", [1.0]) == {"acc": 1.0}
    assert recorded == [([1.0], {"acc": 1.0})]
    assert private.filter_names(task) == ["strict"]
    for name in ("build_all_requests", "doc_iterator", "process_results"):
        assert callable(getattr(HarnessTask, name))


def test_a_model_encodes_requests_without_running(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(private.PrivateHFLM, HFLM):
        pass

    model = Model(pretrained=str(family / "red"), device="cpu", batch_size=3)
    monkeypatch.setattr(HFLM, "_model_call", lambda *_, **__: pytest.fail("the model was run"))
    request = Instance("loglikelihood", {}, ("ab", "c"), 0)
    assert model.encode([request]) == [(model.tok_encode("ab"), model.tok_encode("c"))]
    assert [model.halve_batch_size(), model.batch_size, model.halve_batch_size()] == [True, 1, False]
