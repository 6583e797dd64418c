"""Python that comes with tasks is executed only where the user asks for it by name; nothing is imported before."""

import importlib.util
import json
import marshal
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.zoo import skills
from src.zoo import tasks as zoo_tasks
from tests.conftest import Command
from tests.test_mistakes import check_refused

CODE = """
from pathlib import Path
Path(__file__).with_name("executed").touch()

def text(document): return document["question"]
def acc(values): return sum(values) / len(values)
"""
ALLOW = "evaluate.unsafe_code=true"


class Folder:
    """A folder of tasks, and what was executed of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "aside").mkdir(parents=True)
        documents = [{"question": "abc", "choices": ["a", "b"], "answer": n % 2} for n in range(6)]
        (path / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        for folder in (path, path / "aside"):
            (folder / "code.py").write_text(CODE)

    def write(self, name: str, *, without: tuple[str, ...] = (), **changes: Any) -> None:
        """A YAML file; every value that begins with !function becomes one."""
        config = {
            "task": "own",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(self.path / "own.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}?",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        text = yaml.safe_dump({key: value for key, value in {**config, **changes}.items() if key not in without})
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(text.replace("'!function code.text'", "!function code.text").replace("'!!", "!"))

    @property
    def executed(self) -> bool:
        return any(self.path.rglob("executed"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "tasks")


TEXT = "!function code.text"


def by_itself(folder: Folder) -> None:
    folder.write("own.yaml", doc_to_text=TEXT)


def by_its_aggregation(folder: Folder) -> None:
    folder.write("own.yaml")
    text = (folder.path / "own.yaml").read_text()
    (folder.path / "own.yaml").write_text(text.replace("aggregation: mean", "aggregation: !function code.acc"))


def by_a_long_name_for_the_tag(folder: Folder) -> None:
    folder.write("own.yaml")
    text = (folder.path / "own.yaml").read_text()
    (folder.path / "own.yaml").write_text(
        text.replace("doc_to_text: '{{question}}?'", "doc_to_text: !<!function> code.text")
    )


def by_its_class(folder: Folder) -> None:
    folder.write("own.yaml")
    with (folder.path / "own.yaml").open("a") as file:
        file.write("class: !function code.Path\n")


def by_what_it_includes(folder: Folder) -> None:
    folder.write("aside/common", doc_to_text=TEXT, without=("task",))
    folder.write("aside/between", include="common", without=("task", "doc_to_text"))
    folder.write("own.yaml", include=["aside/between"], without=("doc_to_text",))


def by_what_it_includes_from_elsewhere(folder: Folder) -> None:
    elsewhere = Folder(folder.path.parent / "elsewhere")
    elsewhere.write("common.yaml", doc_to_text=TEXT)
    folder.write("own.yaml", include=str(elsewhere.path / "common.yaml"), without=("doc_to_text",))


def by_a_member_of_its_group(folder: Folder) -> None:
    folder.write("member.yaml", task="member", doc_to_text=TEXT)
    (folder.path / "group.yaml").write_text("group: own\ntask:\n  - task: member\n    num_fewshot: 0\n")


def by_a_group_within_its_group(folder: Folder) -> None:
    folder.write("member.yaml", task="member", doc_to_text=TEXT)
    (folder.path / "inner.yaml").write_text("group: inner\ntask: [member]\n")
    (folder.path / "group.yaml").write_text("group: own\ntask:\n  - group: inner\n")


def by_a_task_that_its_group_spells_out(folder: Folder) -> None:
    folder.write("group.yaml", group="own", task=[{"task": "member", "doc_to_text": TEXT}])


def by_a_task_with_its_tag(folder: Folder) -> None:
    folder.write("member.yaml", task="member", tag=["own"], doc_to_text=TEXT)


WAYS = [
    by_itself,
    by_its_aggregation,
    by_a_long_name_for_the_tag,
    by_its_class,
    by_what_it_includes,
    by_what_it_includes_from_elsewhere,
    by_a_member_of_its_group,
    by_a_group_within_its_group,
    by_a_task_that_its_group_spells_out,
    by_a_task_with_its_tag,
]


@pytest.mark.parametrize("key", ["tasks", "holdout"])
@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_a_task_that_brings_python(evolve: Command, folder: Folder, tmp_path: Path, way: Any, key: str) -> None:
    way(folder)
    folder.write("good.yaml", task="good")
    asked = {"tasks": "good", key: "own"}
    given = [*(f"evaluate.{name}=[{task}]" for name, task in asked.items()), f"evaluate.include={folder.path}"]
    outcome = evolve(*given)
    check_refused(outcome, "which executes Python that came with the task")
    assert outcome.err.startswith("error: task own: ")
    assert ALLOW in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not any(tmp_path.rglob("executed"))
    assert not (tmp_path / "outputs").exists()
    if way is not by_its_class and way is not by_a_task_that_its_group_spells_out:
        allowed = evolve(*given, ALLOW, "dry_run=true")
        assert allowed.status == 0, allowed.err
        assert any(tmp_path.rglob("executed")), "the test would prove nothing if this were never executed"


def test_python_that_no_task_asked_for_names_is_no_matter(evolve: Command, folder: Folder) -> None:
    folder.write("own.yaml")
    folder.write("other.yaml", task="other", doc_to_text=TEXT)
    outcome = evolve("evaluate.tasks=[own]", f"evaluate.include={folder.path}", "dry_run=true")
    assert outcome.status == 0, outcome.err
    assert not folder.executed


def test_a_metric_whose_code_lies_elsewhere(evolve: Command, folder: Folder) -> None:
    (folder.path / "evil").mkdir()
    (folder.path / "evil/evil.py").write_text(CODE)
    for metric, words in (
        (str(folder.path / "evil"), "code found under that name is executed"),
        ("acc_normm", "the metric 'acc_normm' is none of lm-eval's (did you mean acc_norm?)"),
    ):
        folder.write("own.yaml", metric_list=[{"metric": metric, "aggregation": "mean", "higher_is_better": True}])
        check_refused(evolve("evaluate.tasks=[own]", f"evaluate.include={folder.path}"), words)
    assert not folder.executed


def test_a_task_that_executes_what_a_model_wrote(evolve: Command, folder: Folder) -> None:
    folder.write("own.yaml", unsafe_code=True)
    given = "evaluate.tasks=[own]", f"evaluate.include={folder.path}", "stop.generations=1", "strategy.k=2"
    check_refused(evolve(*given), "has unsafe_code, which executes what a model wrote")
    outcome = evolve(*given, ALLOW)
    assert outcome.status == 0, outcome.err
    assert "1-1" in outcome.out


def test_lm_evals_own_tasks_bring_no_python_but_some_are_unsafe(evolve: Command) -> None:
    check_refused(evolve("evaluate.tasks=[mbpp]", "dry_run=true"), "mbpp.yaml has unsafe_code, which executes what a")
    for given in (("evaluate.tasks=[mbpp]", ALLOW), ("evaluate.tasks=[hellaswag]",)):
        outcome = evolve(*given, "evaluate.include=null", "dry_run=true")
        assert outcome.status == 0, outcome.err


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """The embedded family's tasks, without the family, where no configuration says they are."""
    (tmp_path / "anywhere").mkdir()
    zoo_tasks.write(tmp_path / "anywhere", skills.World.of(0), 1)
    return tmp_path / "anywhere"


def test_the_embedded_familys_reader_is_known_by_its_content(evolve: Command, zoo: Path) -> None:
    given = "evaluate.tasks=[zoo_homes]", f"evaluate.include={zoo}", "dry_run=true"
    assert evolve(*given).status == 0
    for other in (zoo / "questions.py").read_text() + CODE, None:
        if other is None:
            (zoo / "questions.py").unlink()
        else:
            (zoo / "questions.py").write_text(other)
        check_refused(evolve(*given), "!function questions.Questions")
        assert not (zoo / "executed").exists()


def test_a_compiled_copy_beside_the_reader_is_not_executed(evolve: Command, zoo: Path) -> None:
    file = zoo / "questions.py"
    code = marshal.dumps(compile(CODE, str(file), "exec"))
    stat = file.stat()
    fits = importlib.util.MAGIC_NUMBER + bytes(4) + int(stat.st_mtime).to_bytes(4, "little")
    compiled = Path(importlib.util.cache_from_source(file))
    compiled.parent.mkdir()
    compiled.write_bytes(fits + stat.st_size.to_bytes(4, "little") + code)
    outcome = evolve("evaluate.tasks=[zoo_homes]", f"evaluate.include={zoo}", "dry_run=true")
    assert outcome.status == 0, outcome.err
    assert not (zoo / "executed").exists()


def test_what_a_start_was_allowed_to_do_is_no_setting_of_the_run(evolve: Command) -> None:
    given = "stop.generations=1", "strategy.k=2"
    for allowing in ([], [ALLOW], []):
        outcome = evolve(*given, *allowing)
        assert outcome.status == 0, outcome.err
    assert "has finished already" in outcome.out
