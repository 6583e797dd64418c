"""What a model answered, by sample: the scores follow from it, it lies beside them, and is remembered with them."""

import json
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from src.evaluation import evaluator, holdout, responses
from src.evaluation.base import Evaluation
from src.evaluation.choices import Choices, score_choices
from src.evaluation.evaluator import Evaluator
from src.evolution import Evolution
from src.journal import State, parse, replay
from src.strategy import KinshipTopk
from src.surrogate.questions import Answers
from tests.conftest import Command
from tests.family import FOUNDERS, SAMPLES, TASKS
from tests.test_cache import refuse
from tests.test_evaluate import KINDS, asked
from tests.test_evaluate import tasks as tasks  # the fixture
from tests.test_run import ALL_RULES_OFF, events

SHORT = ("stop.generations=1", *ALL_RULES_OFF)


def state_of(outputs: Path, name: str = "run") -> State:
    return replay(parse(outputs / name / "journal.jsonl")[0])


def plain_task(folder: Path, name: str, lines: list[dict[str, Any]], **config: Any) -> str:
    """A task of several choices beside the others in a folder."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    usual = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}?",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **usual, **config}))
    return name


def line(answer: Any, *choices: str) -> dict[str, Any]:
    return {"question": "abc", "choices": list(choices), "answer": answer}


def test_the_answers_to_choices_are_lm_evals_log_likelihoods_by_which_its_metric_decides(family: Path) -> None:
    chosen: Any = [{"name": TASKS[0], "metric": "acc_norm"}, TASKS[1]]
    found = Evaluator(asked(chosen, family / "tasks"), seed=0).evaluate(family / "green")
    assert found.answers is not None
    questions = found.answers.questions
    manager = TaskManager(include_path=str(family / "tasks"), include_defaults=False)
    lm = HFLM(pretrained=str(family / "green"), device="cpu", batch_size=16)
    plain: Any = lm_eval.simple_evaluate(lm, tasks=list(TASKS), task_manager=manager, num_fewshot=0, bootstrap_iters=0)
    expected = []
    for task, metric in zip(TASKS, ("acc_norm", "acc"), strict=True):
        for sample in plain["samples"][task]:
            lengths = [len(choice) if metric == "acc_norm" else 1 for choice in sample["doc"]["choices"]]
            expected += [answer[0] / length for (answer,), length in zip(sample["resps"], lengths, strict=True)]
    assert found.answers.values == pytest.approx(expected, abs=1e-5)
    assert questions.tasks == TASKS
    assert questions.ids == tuple((task, document) for task in TASKS for document in range(SAMPLES))
    assert set(questions.choices) == {4}
    right = responses.judged(questions, found.answers.values).reshape(2, SAMPLES)
    assert right.tolist() == [list(found.samples[task].values()) for task in TASKS]
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores))


def test_where_nothing_is_chosen_the_metric_is_the_answer_and_a_score_that_is_no_mean_is_one(
    family: Path, tasks: Path
) -> None:
    names: Any = ["generated", {"name": "rolled", "metric": "bits_per_byte"}, {"name": "told", "metric": "acc"}]
    found = Evaluator(asked(names, tasks), seed=0).evaluate(family / "blue")
    assert found.answers is not None
    questions = found.answers.questions
    assert questions.tasks == tuple(KINDS)
    assert set(questions.choices) == {1}
    sizes = np.bincount(questions.task).tolist()
    assert sizes == [20, 1, 20]
    assert questions.ids[20] == ("rolled", responses.WHOLE)
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores), rel=1e-6)


@pytest.mark.parametrize(
    ("lines", "config"),
    [
        ([line([0, 1], "a", "b", "c"), line([2, 0], "a", "b", "c")], {}),
        ([line(0, "a", "b"), line(0, "c")], {}),
        ([line(0, "a", "b"), line(7, "c", "d")], {}),
        ([line(0, "a", "b"), line(1, "c", "d")], {"metric_list": [{"metric": "acc_mutual_info"}]}),
        ([line(0, "a", "b"), line(1, "c", "d")], {"metric_list": [{"metric": "exact_match"}]}),
        ([line(0, "a", "b"), line(1, "c", "d")], {"metric_list": [{"metric": "acc", "aggregation": "median"}]}),
    ],
    ids=["several right", "a single choice", "none right", "mutual information", "greedy", "no mean"],
)
def test_what_no_largest_answer_decides_is_left_to_the_metric(
    family: Path, tmp_path: Path, lines: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    name = plain_task(tmp_path, "odd", lines, **config)
    found = Evaluator(asked([name], tmp_path), seed=0).evaluate(family / "red")
    assert found.answers is not None
    assert set(found.answers.questions.choices) == {1}
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores), rel=1e-6)


def test_mutual_information_beside_plain_accuracy_does_not_get_in_its_way(family: Path, tmp_path: Path) -> None:
    name = plain_task(
        tmp_path,
        "both",
        [line(i % 2, "abc"[i % 3], "de") for i in range(6)],
        metric_list=[{"metric": "acc"}, {"metric": "acc_mutual_info"}],
    )
    found = Evaluator(asked([name], tmp_path), seed=0).evaluate(family / "red")
    assert found.answers is not None
    assert set(found.answers.questions.choices) == {2}
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores))


@pytest.mark.parametrize("by_size", [True, False])
def test_the_tasks_of_a_group_weigh_what_lm_eval_has_them_weigh(family: Path, tmp_path: Path, by_size: bool) -> None:
    for name, count in (("small", 4), ("large", 20)):
        plain_task(tmp_path, name, [line(i % 3, "abcde"[i % 5], "bc", "ad") for i in range(count)])
    aggregated = [{"metric": "acc", "weight_by_size": by_size}]
    group = {"group": "both", "task": ["small", "large"], "aggregate_metric_list": aggregated}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    plain_task(tmp_path, "third", [line(0, "a", "b")])
    chosen: Any = [{"name": "both", "weight": 3}, "third"]
    found = Evaluator(asked(chosen, tmp_path), seed=0).evaluate(family / "red")
    assert found.answers is not None
    questions = found.answers.questions
    assert questions.tasks == ("both", "third")
    assert set(questions.choices) == {2, 3}
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores))
    share = questions.weight[:4].sum()
    assert share == pytest.approx(4 / 24 if by_size else 1 / 2)
    assert found.weights["small"] == pytest.approx(0.75 * share)


def test_a_task_that_is_asked_twice_is_told_once(family: Path, tmp_path: Path) -> None:
    plain_task(tmp_path, "one", [line(i % 2, "abc"[i % 3], "de") for i in range(6)])
    (tmp_path / "group.yaml").write_text(yaml.safe_dump({"group": "group", "task": ["one"]}))
    found = Evaluator(asked(["group", "one"], tmp_path), seed=0).evaluate(family / "red")
    assert found.answers is not None
    assert found.answers.questions.ids[-2:] == (("one", 5), ("one", responses.WHOLE))
    assert responses.scores_of(found.answers) == pytest.approx(dict(found.scores), rel=1e-6)


def test_the_largest_answer_stays_the_largest_when_it_is_rounded_and_none_is_infinite() -> None:
    choices = Choices([1, 0, 0], [np.ones(3), np.ones(2), np.ones(2)])
    near = [(-1.0 - 1e-9, False), (-1.0, False), (-1.0 - 2e-9, False)]
    never = [(-np.inf, False), (-3.0, False)]
    found = score_choices(choices, [near, never, [(-np.inf, False)] * 2])
    assert [int(one.argmax()) for one in found] == [1, 1, 0]
    assert all(one.dtype == np.float32 and np.isfinite(one).all() for one in found)
    with pytest.raises(RuntimeError, match="the log-likelihood of an answer is NaN"):
        score_choices(choices, [near, never, [(np.nan, False), (-1.0, False)]])


@pytest.mark.parametrize("points", [1.0, 100.0])
def test_an_evaluator_of_ones_own_needs_to_tell_no_answers(points: float) -> None:
    samples = {"first": {3: 0.25 * points, 5: 0.75 * points}, "second": {0: 1.0}}
    found = responses.from_samples(Evaluation({"first": 50.0, "second": 31.5}, 40.75, 0.0, samples, {}))
    assert found.questions.ids == (("first", 3), ("first", 5), ("second", responses.WHOLE))
    assert found.values == pytest.approx([0.25, 0.75, 0.315])
    assert responses.scores_of(found) == pytest.approx({"first": 50.0, "second": 31.5}, rel=1e-6)


def test_a_run_keeps_the_answers_beside_the_scores_and_reads_none_that_are_not_the_journals(
    evolve: Command, tmp_path: Path
) -> None:
    assert evolve("evaluate.holdout=0.5", *SHORT).status == 0
    folder, state = tmp_path / "outputs/run", state_of(tmp_path / "outputs")
    for side, models in (("select", [model.name for model in state.population]), ("holdout", list(state.holdout))):
        for name in models:
            found = holdout.answers(folder, state, name, side)
            recorded = state.holdout[name] if side == "holdout" else state.population[name]
            assert responses.scores_of(found) == pytest.approx(dict(recorded.scores))
            assert len(found.questions.ids) == SAMPLES // 2 * len(TASKS)
    both = [set(holdout.answers(folder, state, "red", side).questions.ids) for side in holdout.SIDES]
    assert not both[0] & both[1]
    red, green = (holdout.place(folder, name, "select").with_suffix(".npz") for name in ("red", "green"))
    kept = red.read_bytes()
    for content in (green.read_bytes(), kept[:-30], kept[: len(kept) // 2], b""):
        red.write_bytes(content)
        with pytest.raises(ValueError, match="not the answers that were looked for"):
            holdout.answers(folder, state, "red")
    key = json.loads(red.with_suffix(".json").read_text())["key"]
    others = Answers.load(green)
    others.save(red, key)
    with pytest.raises(ValueError, match="the answers make other scores than the journal records"):
        holdout.answers(folder, state, "red")
    red.unlink()
    with pytest.raises(FileNotFoundError):
        holdout.answers(folder, state, "red")


def test_answers_are_remembered_across_runs(evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KinshipTopk, "needs_answers", True, raising=False)
    assert evolve("name=first", "cache=on", *SHORT).status == 0
    monkeypatch.setattr(evaluator, "run_tasks", refuse)
    outcome = evolve("name=second", "cache=on", *SHORT)
    assert outcome.status == 0, outcome.err
    first, second = (
        {p.name: p.read_bytes() for p in tmp_path.glob(f"outputs/{n}/samples/*")} for n in ("first", "second")
    )
    assert first == second
    assert {"red.json", "red.npz", "1-1.npz"} <= set(first)
    assert events(tmp_path / "outputs", "first")[1:] == events(tmp_path / "outputs", "second")[1:]


@pytest.mark.parametrize("wanted", [False, True])
def test_what_was_remembered_without_answers_is_asked_again_only_by_who_wants_them(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    evolve("name=first", "cache=on", *SHORT)
    for file in (tmp_path / "outputs/cache/evaluations").glob("*.npz"):
        file.unlink()
    monkeypatch.setattr(KinshipTopk, "needs_answers", wanted, raising=False)
    real, made = evaluator.run_tasks, []
    monkeypatch.setattr(evaluator, "run_tasks", lambda *a, **n: (made.append(None), real(*a, **n))[1])
    assert evolve("name=second", "cache=on", *SHORT).status == 0
    state = state_of(tmp_path / "outputs", "second")
    assert len(made) == wanted * len(state.population)
    assert state.known["evaluated"] == (0 if wanted else len(state.population))
    for model in state.population if wanted else ():
        holdout.answers(tmp_path / "outputs/second", state, model.name)


def test_the_base_can_be_evaluated_and_is_no_member_of_the_population(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Evolution.evaluate_founders

    def base_first(self: Evolution) -> None:
        if self.state.base is not None and self.state.base.average is None:
            self._evaluate(["base"], "select", "base")
        real(self)

    monkeypatch.setattr(Evolution, "evaluate_founders", base_first)
    outcome = evolve("stop.evaluations=7", "stop.generations=null", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    state = state_of(tmp_path / "outputs")
    assert state.base is not None
    assert "base" not in state.population
    assert state.evaluations == 7 == 1 + len(state.population)
    found = holdout.answers(tmp_path / "outputs/run", state, "base")
    assert responses.scores_of(found) == pytest.approx(dict(state.base.scores))
    assert found.questions.equals(holdout.answers(tmp_path / "outputs/run", state, FOUNDERS[0]).questions)
