"""Skills kept: what a model can do of what the founders could, and models ranked by it."""

from pathlib import Path

import pytest

from src.journal import events_of, replay
from src.population import Model, Population, neglected, normalised_average, skills, worst
from src.start import changed
from src.tracking import summary
from tests.conftest import Command
from tests.test_mistakes import check_refused

FOUNDERS = {"math": {"add": 90.0, "spell": 10.0, "know": 0.0}, "words": {"add": 20.0, "spell": 80.0, "know": 0.0}}
MODELS = (
    *(Model(name, scores=scores, average=sum(scores.values()) / 3, stderr=1.0) for name, scores in FOUNDERS.items()),
    Model("1-1", 1, ("math", "words"), scores={"add": 45.0, "spell": 60.0, "know": 0.0}, average=35.0, stderr=1.0),
    Model("1-2", 1, ("math", "words"), scores={"add": 85.0, "spell": 30.0, "know": 1.0}, average=38.7, stderr=1.0),
)


def test_a_skill_is_held_against_the_founder_that_is_best_at_it() -> None:
    add, spell, know = skills(FOUNDERS, MODELS[2].scores)
    assert (add.specialist, add.best, add.score, add.lost, add.kept) == ("math", 90.0, 45.0, 45.0, 0.5)
    assert (spell.specialist, spell.kept) == ("words", 0.75)
    assert (know.specialist, know.kept) == ("math", 1.0)  # nobody can do it: the first, and nothing is lost
    assert normalised_average([add, spell, know]) == pytest.approx(100 * (0.5 + 0.75 + 1) / 3)
    assert worst([add, spell, know]) is know
    assert neglected([add, spell, know]) == []
    assert [skill.task for skill in neglected(skills(FOUNDERS, MODELS[3].scores))] == ["spell"]


def test_a_founder_keeps_its_own_skills() -> None:
    assert [skill.kept for skill in skills(FOUNDERS, FOUNDERS["math"])] == [1.0, 0.125, 1.0]


@pytest.mark.parametrize(("objective", "best"), [("average", "1-2"), ("normalised", "1-2"), ("worst", "1-2")])
def test_models_are_ranked_by_the_objective(objective: str, best: str) -> None:
    population = Population(MODELS, objective)  # type: ignore[arg-type]
    assert population.best(1)[0].name == best
    values = [population.value(model) for model in population.best(4)]
    assert values == sorted(values, reverse=True)
    assert population.tops(4)[-1] == population.best(4)


def test_the_objectives_disagree_where_they_should() -> None:
    balanced = Model("1-3", 1, ("math", "words"), scores={"add": 40.0, "spell": 42.0, "know": 2.0}, average=28.0)
    assert Population((*MODELS, balanced), "worst").best(1)[0] is balanced
    assert Population((*MODELS, balanced), "average").best(1)[0].name == "1-2"
    assert Population((*MODELS, balanced), "normalised").value(balanced) == pytest.approx(
        100 * (40 / 90 + 42 / 80 + 1) / 3
    )


def test_until_all_founders_are_scored_models_are_ranked_by_average() -> None:
    half = Population((MODELS[0], Model("words")), "worst")
    assert half.value(MODELS[0]) == MODELS[0].average


@pytest.mark.parametrize("objective", ["normalised", "worst"])
def test_a_run_goes_by_its_objective(evolve: Command, tmp_path: Path, objective: str) -> None:
    given = f"evaluate.objective={objective}", "evaluate.holdout=0.5", "stop.generations=2", "strategy.k=3"
    outcome = evolve(*given)
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    population = state.population
    winner = population.best(1)[0]
    values = {model.name: population.value(model) for model in population.eligible()}
    assert values[winner.name] == max(values.values())
    assert summary.figures(state)["best"] == values[winner.name]
    assert "has finished already" in evolve(*given).out
    check_refused(evolve("stop.generations=2", "strategy.k=3", "evaluate.holdout=0.5"), "evaluate.objective was")


def test_the_end_says_what_is_kept_of_every_skill(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("evaluate.holdout=0.5", "stop.generations=2", "strategy.k=4")
    state = replay(events_of(tmp_path / "outputs/run"))
    winner = state.population.best(1)[0]
    side, found = summary.skills_kept(state)
    assert side == "holdout"
    assert [skill.task for skill in found] == list(winner.scores)
    for skill in found:
        assert skill.best == max(state.holdout[m.name].scores[skill.task] for m in state.population if m.founder)
        assert skill.score == state.holdout[winner.name].scores[skill.task]
    told = summary.summary(state)
    assert told["skills/holdout/normalised"] == normalised_average(found)
    card = (tmp_path / "outputs/run/best/README.md").read_text()
    shown = "skills kept, on the holdout: " in outcome.out
    assert shown == (not winner.founder) == ("## Skills kept" in card)
    page = (tmp_path / "outputs/run/report.html").read_text()
    assert shown == ("best founder at it" in page) == ("skills kept" in page)
    assert ("less than half is kept of" in outcome.err) == (shown and bool(neglected(found)))


def test_a_journal_from_before_there_were_objectives_went_by_the_average() -> None:
    now = {"evaluate": {"tasks": ["a"], "objective": "average", "evaluator": None}}
    assert changed({"evaluate": {"tasks": ["a"]}}, now) == []
    now["evaluate"]["objective"] = "worst"
    assert changed({"evaluate": {"tasks": ["a"]}}, now) == ["evaluate.objective"]
