"""M2N2: who shares questions with others is worth less, partners complete each other, and merges have a split point."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from src.evaluation import candidates
from src.journal import events_of, replay
from src.kinship.recipe import evaluate
from src.population import KinshipTable, Model, Population
from src.strategy.m2n2 import M2N2
from src.surrogate.questions import Answers, Questions
from tests.conftest import Command
from tests.strategy.killed import assert_same_journal
from tests.strategy.test_recipes import GPT2, LLAMA, geometry
from tests.test_kills import FakeEvaluator
from tests.test_mistakes import check_refused

NOTHING = KinshipTable("pcc")


def niches(**changes: Any) -> M2N2:
    return M2N2(name="m2n2", **{"archive": 20, "alpha": 1.0, "batch": 2, "seed": 0, **changes})


def population(right: Mapping[str, Sequence[float]], tasks: Sequence[int] | None = None) -> Population:
    """Models by name that answered each question rightly (1) or wrongly (0), or were not asked (NaN)."""
    count = len(next(iter(right.values())))
    task = np.array(tasks or [0] * count)
    sizes = np.bincount(task)
    questions = Questions(
        tasks=tuple(f"task {number}" for number in range(len(sizes))),
        task=task,
        weight=1 / sizes[task],
        first=np.arange(0, 2 * count, 2),
        choices=np.full(count, 2),
        gold=np.zeros(count, dtype=int),
        ids=tuple((f"task {number}", place) for place, number in enumerate(task)),
    )
    answers = {}
    for name, values in right.items():
        gold = np.where(np.isnan(values), np.nan, np.where(np.array(values) > 0, -1.0, -3.0))
        answers[name] = Answers(questions, np.stack([gold, np.where(np.isnan(gold), np.nan, -2.0)], axis=1).ravel())
    models = tuple(Model(name, average=100 * float(np.nanmean(values))) for name, values in right.items())
    return Population(models, answers=answers.__getitem__)


def pairs(strategy: M2N2, over: Population) -> set[frozenset[str]]:
    return {frozenset(proposal.parents) for proposal in strategy.propose(over, NOTHING)}


def test_who_answers_what_others_cannot_stays_in_the_archive() -> None:
    """Worked by hand: of α = 1 and all three, z is 2, 2, 1, 1, so that a has 2, b 1 and c 1; α = 2: 1.5, 0.5 and 1."""
    three = population({"a": [1, 1, 1, 0], "c": [0, 0, 0, 1], "b": [1, 1, 0, 0]})
    assert niches(archive=2, alpha=2.0).possible_parents(three) == {"a", "c"}
    assert niches(archive=2, alpha=0.0).possible_parents(three) == {"a", "b"}  # as many right answers as it can have
    assert niches(archive=3).possible_parents(three) == {"a", "b", "c"}


def test_tasks_count_alike_whatever_their_size() -> None:
    """By questions alone b, which has three, would stay instead of c, which has the only one of its task."""
    four = {"a": [1, 1, 1, 1, 1, 0], "b": [0, 1, 1, 1, 0, 0], "c": [0, 0, 0, 0, 0, 1]}
    assert niches(archive=2, alpha=0.0).possible_parents(population(four)) == {"a", "b"}
    assert niches(archive=2, alpha=0.0).possible_parents(population(four, [0, 0, 0, 0, 0, 1])) == {"a", "c"}


def test_a_partner_answers_what_the_first_cannot() -> None:
    """Nothing is drawn to dull, which answers nothing; less has nothing to give to more, and more all to it."""
    models = population({"more": [1, 1, 1, 0], "less": [1, 0, 0, 0], "dull": [0, 0, 0, 0], "other": [0, 0, 0, 1]})
    found = set().union(*(pairs(niches(seed=seed), models) for seed in range(40)))
    assert found == {frozenset(pair) for pair in (("more", "less"), ("more", "other"), ("less", "other"))}
    often = [frozenset(("more", "other")) in pairs(niches(seed=seed, batch=1), models) for seed in range(200)]
    # First more (2.5 of 4): only other attracts. First less (0.5): more by 2 of 3, other by 1. First other (1): the
    # same as more's share against less's, 2.5 of 3. All in all 0.625 + 0.25 · 2.5 / 3.
    assert np.mean(often) == pytest.approx(0.625 + 0.25 * 2.5 / 3, abs=0.07)


def test_equals_are_merged_all_the_same() -> None:
    assert pairs(niches(), population({"a": [1, 0], "b": [1, 0]})) == {frozenset("ab")}
    assert pairs(niches(), population({"a": [0, 0], "b": [0, 0]})) == {frozenset("ab")}


def test_what_a_model_was_not_asked_counts_as_its_task_does() -> None:
    nan = math.nan
    models = population({"a": [1, 1, nan, nan], "b": [0, 0, 1, 0], "c": [0, 0, nan, 1]}, [0, 0, 1, 1])
    _, scores, _ = niches()._archived(models)
    assert scores.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_without_answers_tasks_are_what_is_shared() -> None:
    scores = {"a": {"t": 90.0, "u": 10.0}, "b": {"t": 80.0, "u": 0.0}, "c": {"t": 10.0, "u": 40.0}}
    models = Population(tuple(Model(name, scores=own, average=50.0) for name, own in scores.items()))
    assert niches(archive=2).possible_parents(models) == {"a", "c"}


def test_who_is_only_supposed_to_have_a_score_has_no_place_yet() -> None:
    models = population({"a": [1, 0], "b": [0, 1]}).add(Model("1-1", 1, ("a", "b"), average=-math.inf))
    assert niches().possible_parents(models) == {"a", "b"}


@pytest.mark.parametrize("names", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_merges_have_one_ratio_before_a_point_of_the_weights_and_its_complement_after_it(names: list[str]) -> None:
    measured = geometry(names)
    order = sorted(names, key=lambda name: (name.startswith(("lm_head", "model.norm", "ln_f")), _layer(name)))
    models = population({"a": [1, 0], "b": [0, 1]})
    points = set()
    for seed in range(30):
        for proposal in niches(seed=seed).propose(models, KinshipTable("pcc", geometry=measured)):
            assert proposal.merge is not None
            assert (proposal.merge["method"], proposal.merge["base_model"]) == ("slerp", "parent")
            t = [evaluate(proposal.merge["parameters"]["t"], name, 0.5) for name in order]
            changes = [place for place in range(1, len(t)) if t[place] != t[place - 1]]
            assert len(changes) <= 1
            assert not changes or t[0] + t[-1] == pytest.approx(1)
            points |= {*changes}
    assert len(points) > len(names) / 3
    settings = niches(seed=5).propose(models, KinshipTable("pcc", geometry=measured))[0].merge
    assert settings is not None
    assert len(settings["parameters"]["t"]) <= 12 + 4 + 1  # whole layers by their prefix


def _layer(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def test_the_offspring_is_what_mergekit_makes_of_both_sides(evolve: Command, tmp_path: Path) -> None:
    done = evolve("strategy=m2n2", "strategy.batch=3", "stop.evaluations=10", "keep=all")
    assert done.status == 0, done.err
    state = replay(events_of(tmp_path / "outputs/run"))
    assert [model.name for model in state.population][4:] == ["1-1", "1-2", "1-3", "2-1", "2-2", "2-3"]
    made = state.population["2-1"]
    folders = {name: Path(state.sources[name]) for name in ("red", "green", "blue", "grey")}
    places = {**folders, **{name: tmp_path / f"outputs/run/models/{name}" for name in ("1-1", "1-2", "1-3", "2-1")}}
    first, second, found = (load_file(places[name] / "model.safetensors") for name in (*made.parents, "2-1"))
    assert made.merge is not None
    for name, tensor in found.items():
        a, b = first[name].astype(float).ravel(), second[name].astype(float).ravel()
        t = evaluate(made.merge["parameters"]["t"], name, 0.0)
        assert isinstance(t, float)
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        wanted = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        np.testing.assert_allclose(tensor.ravel(), wanted, atol=2e-5)


def test_a_run_that_is_killed_goes_on_to_the_same_journal(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "Evaluator", FakeEvaluator)

    def run(name: str) -> int:
        return evolve("strategy=m2n2", "strategy.archive=4", "stop.evaluations=16", f"name={name}").status

    assert_same_journal(run, tmp_path / "outputs", moments=(14, 22, 31))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("strategy.archive=1", "strategy.archive is 1; should be greater than or equal to 2"),
        ("strategy.alpha=-1", "strategy.alpha is -1; should be greater than or equal to 0"),
        ("strategy.k=3", "strategy.k: no such key"),
    ],
)
def test_a_mistake_costs_one_line(evolve: Command, given: str, words: str) -> None:
    check_refused(evolve("strategy=m2n2", given), words)
