"""Tasks that cannot work are refused by name before a model is asked, in the plan too; those that can are not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Command
from tests.test_mistakes import check_refused

CHOICES: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}?",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}?",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["?"], "max_gen_toks": 2},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
DOCUMENTS = [{"question": "abc", "choices": ["a", "b"], "answer": n % 2, "places": n} for n in range(6)]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder with a task `own`: write(changes to its YAML, documents=…, code=what lies beside it as code.py)."""

    def made(
        changes: dict[str, Any] | None = None,
        *,
        like: dict[str, Any] = CHOICES,
        documents: list[dict[str, Any]] = DOCUMENTS,
        code: str = "",
    ) -> Path:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        data = folder / "own.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in documents))
        config = {
            "task": "own",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **like,
            **(changes or {}),
        }
        # A value that begins with ! is a YAML tag.
        text = yaml.safe_dump(config).replace("'!function ", "!function ").replace(".py'", "")
        (folder / "own.yaml").write_text(text)
        if code:
            (folder / "code.py").write_text(code)
        return folder

    return made


def function(name: str) -> str:
    return f"!function code.{name}.py"  # as `write` wants it


def metric(name: str, **more: Any) -> dict[str, Any]:
    return {"metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True, **more}]}


# (what is wrong, how the task is written, words that must be in the answer)
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("no metric", {"changes": {"metric_list": []}}, "it has no metric"),
    (
        "no choices",
        {"documents": [{**one, "choices": []} for one in DOCUMENTS]},
        "is a split of its data empty, or a list of choices?",
    ),
    (
        "no choices in one sample",
        {"documents": [*DOCUMENTS[:4], {**DOCUMENTS[4], "choices": []}, DOCUMENTS[5]]},
        "its questions cannot be made (ValueError: sample 4 asks nothing; is its list of choices empty?)",
    ),
    ("an empty split", {"changes": {"test_split": "test[:0]"}}, "could not be loaded"),
    (
        "no documents left",
        {"changes": {"process_docs": function("none")}, "code": "def none(data): return data.select([])\n"},
        "is a split of its data empty",
    ),
    ("a template that always divides by zero", {"changes": {"doc_to_text": "{{1 / 0}}"}}, "ZeroDivisionError"),
    (
        "a template that once divides by zero",
        {"changes": {"doc_to_text": "{{1 / (places - 3)}}"}},
        "its questions cannot be made (ZeroDivisionError: ",
    ),
    ("a template that names no field", {"changes": {"doc_to_text": "{{answerr}}"}}, "UndefinedError"),
    ("a template that is none", {"changes": {"doc_to_text": "{{question"}}, "TemplateSyntaxError"),
    (
        "a template that reaches into Python",
        {"changes": {"doc_to_text": "{{''.__class__.__mro__[1].__subclasses__()}}"}},
        "SecurityError",
    ),
    ("more shots than samples", {"changes": {"num_fewshot": 99}}, "its questions cannot be made"),
    ("a filter that is none", {"changes": {"filter_list": [{"name": "x", "filter": [{"function": "no"}]}]}}, "own"),
    (
        "a metric that raises",
        {
            "changes": {"process_results": function("judge")},
            "code": "def judge(document, answers): raise RuntimeError('no judge')\n",
        },
        "its metric acc can score no answer (RuntimeError: no judge)",
    ),
    (
        "a metric that is no number",
        {
            "changes": {"process_results": function("judge")},
            "code": "def judge(document, answers): return {'acc': 'good'}\n",
        },
        "its metric acc can score no answer (TypeError: ",
    ),
    (
        "a metric that is not finite",
        {
            "changes": {"process_results": function("judge")},
            "code": "def judge(document, answers): return {'acc': float('nan')}\n",
        },
        "its metric acc can score no answer (ValueError: it gives nan, which is no number)",
    ),
    (
        "a metric that is never given",
        {
            "changes": {"process_results": function("judge")},
            "code": "def judge(document, answers): return {'accuracy': 1.0}\n",
        },
        "its metric acc can score no answer (LookupError: it gives accuracy,none, not acc,none)",
    ),
    (
        "an aggregation that raises",
        {
            "changes": {"metric_list": [{"metric": "acc", "aggregation": function("mean"), "higher_is_better": True}]},
            "code": "def mean(values): raise ValueError('never')\n",
        },
        "its metric acc can score no answer (ValueError: never)",
    ),
    (
        "an aggregation that is none",
        {"changes": {"metric_list": [{"metric": "acc", "aggregation": "avg", "higher_is_better": True}]}},
        "its metric acc can score no answer",
    ),
    ("a metric for other answers", {"changes": metric("acc"), "like": WRITTEN}, "its metric acc can score no answer"),
]


@pytest.mark.parametrize("plan", [False, True], ids=["run", "plan"])
@pytest.mark.parametrize(("_what", "task", "words"), BROKEN, ids=[what for what, _, _ in BROKEN])
def test_a_task_that_cannot_work(
    evolve: Command, write: Write, tmp_path: Path, _what: str, task: dict[str, Any], words: str, plan: bool
) -> None:
    tasks = write(**task)
    outcome = evolve(
        "evaluate.tasks=[own]",
        f"evaluate.include={tasks}",
        f"evaluate.unsafe_code={bool(task.get('code'))}",
        f"dry_run={plan}",
    )
    check_refused(outcome, words)
    assert outcome.err.startswith("error: task own: ")
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_broken_task_that_is_held_out_is_found_as_early(evolve: Command, write: Write, tmp_path: Path) -> None:
    tasks = write({"doc_to_text": "{{1 / (places - 3)}}"})
    good = {**yaml.safe_load((tasks / "own.yaml").read_text()), "task": "good", **CHOICES}
    (tasks / "good.yaml").write_text(yaml.safe_dump(good))
    outcome = evolve("evaluate.tasks=[good]", "evaluate.holdout=[own]", f"evaluate.include={tasks}")
    check_refused(outcome, "error: task own: its questions cannot be made")
    assert not (tmp_path / "outputs").exists()
    # What is not asked does no harm: half of the samples are, and the fourth is not among them.
    drawn = evolve("evaluate.tasks=[own]", f"evaluate.include={tasks}", "evaluate.limit=1", "dry_run=true")
    assert drawn.status == 0, drawn.err


FUSSY = """
import statistics

def judge(document, answers):
    return {"acc": float(int(answers[0]) == document["answer"])}

def spread(values):
    return 1 / statistics.stdev(values)
"""


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({"changes": {"process_results": function("judge")}, "like": WRITTEN | metric("acc")}, FUSSY),
        (
            {
                "changes": {
                    "metric_list": [{"metric": "acc", "aggregation": function("spread"), "higher_is_better": True}]
                }
            },
            FUSSY,
        ),
        ({"changes": metric("brier_score", aggregation="brier_score")}, ""),
        ({"changes": metric("mcc", aggregation="matthews_corrcoef")}, ""),
        ({"changes": {"metric_list": [{"metric": "acc_norm"}, {"metric": "acc_mutual_info"}]}}, ""),
        ({"like": WRITTEN}, ""),
        ({"like": WRITTEN, "changes": {"repeats": 3}}, ""),
        ({"like": WRITTEN, "changes": metric("bleu", aggregation="bleu")}, ""),
        ({"like": WRITTEN, "changes": {"doc_to_target": "{{choices}}"}}, ""),
        ({"like": WRITTEN, "changes": {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]}}, ""),
        (
            {
                "like": WRITTEN,
                "changes": {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]},
            },
            "",
        ),
    ],
    ids=[
        "wants numbers",
        "wants a spread",
        "brier",
        "mcc",
        "mutual",
        "written",
        "repeats",
        "bleu",
        "targets",
        "ll",
        "roll",
    ],
)
def test_a_task_that_can_work_is_never_refused(evolve: Command, write: Write, task: dict[str, Any], code: str) -> None:
    tasks = write(**task, code=code)
    outcome = evolve("evaluate.tasks=[own]", f"evaluate.include={tasks}", "evaluate.unsafe_code=true", "dry_run=true")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("given", ["dry_run=true", "dry_run=false"])
def test_an_unknown_metric_is_refused_in_the_plan(evolve: Command, tmp_path: Path, given: str) -> None:
    outcome = evolve("evaluate.tasks=[pico_vowels,{name: pico_words, metric: f1}]", given)
    check_refused(outcome, "pico_words has no metric 'f1'. Known: acc, acc_norm")
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_metric_of_a_task_whose_data_are_not_here_is_refused_in_the_plan(
    evolve: Command, write: Write
) -> None:
    tasks = write({"dataset_path": "nobody/nothing", "dataset_kwargs": None})
    asked = f"evaluate.include={tasks}", "dry_run=true"
    check_refused(evolve("evaluate.tasks=[{name: own, metric: f1}]", *asked), "own has no metric 'f1'. Known: acc.")
    found = evolve("evaluate.tasks=[{name: own, metric: acc}]", *asked)
    assert found.status == 0, found.err


def test_data_that_cannot_be_reached(evolve: Command, write: Write) -> None:
    tasks = write({"dataset_kwargs": {"data_files": {"test": "/nowhere.jsonl"}}})
    outcome = evolve("evaluate.tasks=[own]", f"evaluate.include={tasks}", "dry_run=true")
    check_refused(outcome, "error: task own: it could not be loaded (FileNotFoundError: ")
    assert "is its data set reachable?" in outcome.err


@pytest.mark.parametrize(
    "given",
    ["evaluate.model_args={attn_implementation: eager}", "evaluate.model_args.attn_implementation=eager"],
)
def test_model_args_from_the_command_line(evolve: Command, tmp_path: Path, given: str) -> None:
    outcome = evolve(given, "stop.generations=1", "strategy.k=2")
    assert outcome.status == 0, outcome.err
    started = json.loads((tmp_path / "outputs/run/journal.jsonl").read_text().splitlines()[0])
    assert started["settings"]["evaluate"]["model_args"] == {"attn_implementation": "eager"}
    check_refused(evolve("evaluate.model_argz.x=1", "name=other"), "evaluate.model_argz.x: no such key")
