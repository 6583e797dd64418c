"""Fewer samples: an offspring is asked a part of them, other offspring other parts, founders all."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from src.evaluation import candidates, holdout, responses
from src.evaluation.evaluator import Evaluator
from src.evolution import Evolution
from src.journal import parse
from src.journal.events import check_fields
from tests.conftest import Command, run
from tests.family import FOUNDERS, SAMPLES, TASKS
from tests.test_answers import state_of
from tests.test_evaluate import asked
from tests.test_kills import FakeEvaluator, end_as_one_that_was_not_killed
from tests.test_mistakes import check_refused
from tests.test_run import ALL_RULES_OFF, events


@pytest.mark.parametrize("share", [1 / 2, 1 / 3, 0.3, 1 / 5])
def test_the_parts_have_nothing_in_common_and_are_everything(family: Path, share: float) -> None:
    evaluator = Evaluator(asked(list(TASKS), family / "tasks", share=share, holdout=0.5, limit=10), seed=3)
    whole = evaluator.evaluate(family / "red")
    parts = [evaluator.part(number).evaluate(family / "red") for number in range(round(1 / share))]
    assert whole.count == 10 * len(TASKS)
    for task in TASKS:
        sizes = [len(part.samples[task]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == 10
        together = {document: score for part in parts for document, score in part.samples[task].items()}
        assert together == whole.samples[task]
        mean = np.average([part.scores[task] for part in parts], weights=sizes)
        assert mean == pytest.approx(whole.scores[task], abs=1e-9)
    assert len({evaluator.identity, *(evaluator.part(number).identity for number in range(len(parts)))}) == 1 + len(
        parts
    )
    assert whole.answers is not None
    pieces = [responses.spread(part.answers, whole.answers.questions) for part in parts if part.answers is not None]
    assert (np.sum([piece.known for piece in pieces], axis=0) == 1).all()
    assert np.nansum([piece.values for piece in pieces], axis=0) == pytest.approx(whole.answers.values, abs=1e-5)
    again = Evaluator(asked(list(TASKS), family / "tasks", share=share, holdout=0.5, limit=10), seed=3)
    assert again.part(1).identity == evaluator.part(1).identity
    assert again.identity == Evaluator(asked(list(TASKS), family / "tasks", holdout=0.5, limit=10), seed=3).identity
    other = Evaluator(asked(list(TASKS), family / "tasks", share=share, holdout=0.5, limit=10), seed=4)
    assert other.part(1).identity != evaluator.part(1).identity


def test_offspring_take_turns_and_everybody_else_is_asked_everything(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("evaluate.share=0.25", "stop.generations=2", "keep=all", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    found = [event for event in parse(tmp_path / "outputs/run/journal.jsonl")[0] if event["event"] == "evaluated"]
    founders, offspring = found[: len(FOUNDERS)], [event for event in found if "part" in event]
    finalists = found[len(FOUNDERS) + len(offspring) :]
    assert all("part" not in event and event["samples"] == SAMPLES * len(TASKS) for event in finalists)
    assert all("part" not in event and event["samples"] == SAMPLES * len(TASKS) for event in founders)
    assert [(event["part"], event["parts"]) for event in offspring] == [(n % 4, 4) for n in range(len(offspring))]
    assert all(event["samples"] == SAMPLES // 4 * len(TASKS) for event in offspring)
    state = state_of(tmp_path / "outputs")
    for model in state.population:
        answered = holdout.answers(tmp_path / "outputs/run", state, model.name)
        assert len(answered.questions.ids) == SAMPLES * len(TASKS) // (1 if model.part is None else 4)
        assert holdout.samples(tmp_path / "outputs/run", state, model.name, "select").average == model.average


def asking_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every run evaluate the base first, and ask its winner everything before it ends."""
    founders, end = Evolution.evaluate_founders, Evolution.evaluate_holdout

    def base_first(self: Evolution) -> None:
        if self.state.base is not None and self.state.base.average is None:
            self._evaluate(["base"], "select", "base")
        founders(self)

    def winner_last(self: Evolution) -> None:
        youngest = list(self.state.population)[-1].name
        if self.state.model(youngest).part is not None:
            ask = partial(self._candidates.evaluate, side="select", whole=True, follow=lambda done, of: None)
            self._recorder.record_all([youngest], [ask(youngest)])
        end(self)

    monkeypatch.setattr(Evolution, "evaluate_founders", base_first)
    monkeypatch.setattr(Evolution, "evaluate_holdout", winner_last)


def test_a_model_can_be_asked_everything_later(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking_more(monkeypatch)
    seen = []
    real = Evolution.finish

    def look(self: Evolution, *rest: object) -> None:
        seen.extend(self._candidates.answers(name) for name in ("base", *self._names()))
        real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evolution, "finish", look)
    outcome = evolve("evaluate.share=0.5", "stop.generations=1", "keep=all", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    state = state_of(tmp_path / "outputs")
    youngest = list(state.population)[-1]
    assert youngest.part is None
    assert state.evaluations == 2 + len(state.population)  # the base's, and the second one
    offspring = len(state.population) - len(FOUNDERS)
    assert state.samples == SAMPLES * len(TASKS) * (2 + len(FOUNDERS)) + SAMPLES // 2 * len(TASKS) * offspring
    mine = holdout.answers(tmp_path / "outputs/run", state, youngest.name)
    assert responses.scores_of(mine) == pytest.approx(dict(youngest.scores))
    asked_of = [int(answers.known.sum()) for answers in seen]
    whole = 4 * SAMPLES * len(TASKS)
    assert asked_of == [whole] * (1 + len(FOUNDERS)) + [whole // 2] * (offspring - 1) + [whole]
    assert len({id(answers.questions) for answers in seen}) == 1


def test_samples_that_were_lost_are_asked_again_of_the_same_part(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("evaluate.share=0.5", "stop.generations=1", "keep=all", *ALL_RULES_OFF)
    evolve(*command)
    journal, run_folder = events(tmp_path / "outputs"), tmp_path / "outputs/run"
    files = [holdout.place(run_folder, "1-2", "select", 1).with_suffix(suffix) for suffix in (".json", ".npz")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    lines = (run_folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (end,) = [number for number, text in enumerate(lines) if b'"event":"compared"' in text or b'"stopped"' in text][:1]
    (run_folder / "journal.jsonl").write_bytes(b"".join(lines[:end]))
    monkeypatch.setattr(holdout, "lost", lambda folder, state, side: ["1-2"] if side == "select" else [])
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert [file.read_bytes() for file in files] == before
    assert events(tmp_path / "outputs") == journal


@pytest.mark.parametrize(
    ("times", "evaluator"),
    [(6, "fake"), pytest.param(60, "fake", marks=pytest.mark.slow), pytest.param(4, "real", marks=pytest.mark.slow)],
)
def test_a_run_with_parts_that_is_killed_ends_like_one_that_was_not(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, evaluator: str
) -> None:
    if evaluator == "fake":
        monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)
    asking_more(monkeypatch)
    models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)

    def start(name: str) -> int:
        return run(
            *("strategy=kinship_topk", "founders=local", f"founders.base={family / 'base'}"),
            *(f"founders.models={{{models}}}", f"evaluate.tasks=[{','.join(TASKS)}]"),
            *(f"evaluate.include={family / 'tasks'}", f"outputs={tmp_path}", f"name={name}", "track=none"),
            *("cache=off", "workers.threads=1", "stop.generations=2", "evaluate.share=0.5", *ALL_RULES_OFF),
        ).status

    end_as_one_that_was_not_killed(start, tmp_path, times)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate.share=0.7", "evaluate.share is 0.7; expected 0.5 or less"),
        ("evaluate.share=0", "evaluate.share"),
        ("evaluate.share=1.5", "evaluate.share"),
        ("evaluate.share=0.02", "evaluate.share is 0.02, which makes 50 parts, and pico_vowels has 24 samples"),
        ("stop.samples=0", "stop.samples"),
    ],
)
def test_a_share_that_makes_no_parts_is_refused(evolve: Command, tmp_path: Path, override: str, words: str) -> None:
    check_refused(evolve(override), words)
    assert not (tmp_path / "outputs/run").exists()


def test_an_evaluator_without_parts_is_refused_a_share(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "undivided.py").write_text(
        "from src.evaluation.base import BaseEvaluator\nclass Undivided(BaseEvaluator):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = evolve("evaluate.evaluator=undivided.Undivided", "evaluate.share=0.5", "evaluate.tasks=[any]")
    check_refused(outcome, "evaluate.share is 0.5, and undivided.Undivided has no method `part`")


def test_a_share_of_one_is_no_share(evolve: Command, tmp_path: Path) -> None:
    assert evolve("evaluate.share=1", "stop.generations=1").status == 0
    outcome = evolve("evaluate.share=null", "stop.generations=1")
    assert outcome.status == 0, outcome.err
    assert all("part" not in event for event in parse(tmp_path / "outputs/run/journal.jsonl")[0])


def test_a_budget_of_samples_ends_the_run(evolve: Command, tmp_path: Path) -> None:
    rules = ("evaluate.share=0.5", "stop.generations=null", "stop.samples=240", *ALL_RULES_OFF)
    outcome = evolve(*rules)
    assert outcome.status == 0, outcome.err
    assert "stopped: the budget of 240 samples is spent" in outcome.out
    state = state_of(tmp_path / "outputs")
    assert state.samples >= 240
    assert state.samples - 240 < len(state.population.of_generation(state.closed)) * SAMPLES // 2 * len(TASKS)


def test_a_journal_that_tells_of_a_part_that_is_none_is_refused() -> None:
    scored = {"scores": {"task": 1.0}, "average": 1.0, "stderr": 0.0, "samples": 6, "seconds": 1.0}
    for part, parts in ((3, 4), (None, 1)):
        check_fields({"event": "evaluated", "model": "1-1", **scored, "part": part, "parts": parts})
    with pytest.raises(ValueError, match="the samples are in 4 parts, from 0 on, of which 4 is none"):
        check_fields({"event": "evaluated", "model": "1-1", **scored, "part": 4, "parts": 4})
