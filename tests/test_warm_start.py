"""A search and a lesson that start from an earlier run: what was found there is made again, and not asked again."""

import shutil
from pathlib import Path

import pytest

from src.journal import State, events_of, replay
from tests.conftest import Command
from tests.family import FOUNDERS
from tests.test_mistakes import check_refused

SEARCH = ("strategy=recipe_search", "stop.evaluations=10", "stop.gain=null")
EARLIER = {
    "an evolution": ("strategy=kinship_topk", "merge=linear", "strategy.k=3", "stop.generations=2"),
    "a search": (*SEARCH, "strategy.blocks=layer"),
}


def state_of(folder: Path) -> State:
    return replay(events_of(folder))


@pytest.mark.parametrize("earlier", EARLIER)
def test_what_an_earlier_run_found_is_known_and_costs_nothing(evolve: Command, tmp_path: Path, earlier: str) -> None:
    outputs, cache = tmp_path / "outputs", f"cache.folder={tmp_path / 'cache'}"
    outcome = evolve(*EARLIER[earlier], "cache=on", cache, "name=before")
    assert outcome.status == 0, outcome.err
    before = [model for model in state_of(outputs / "before").population if model.parents and model.average is not None]
    sums = {model.fingerprint: model.average for model in before if (model.merge or {}).get("method") != "wudi"}
    assert sums

    start = f"strategy.warm_start={outputs / 'before'}"
    outcome = evolve(*SEARCH, "cache=on", cache, start, "stop.evaluations=20", "strategy.blocks=part")
    assert outcome.status == 0, outcome.err
    again = [model for model in state_of(outputs / "run").population if model.generation == 2]
    made = {model.fingerprint: model.average for model in again}
    first = [model.fingerprint for model in state_of(outputs / "run").population if model.generation == 1]
    assert made == {fingerprint: score for fingerprint, score in sums.items() if fingerprint not in first}
    evaluated = [event for event in events_of(outputs / "run") if event["event"] == "evaluated"]
    assert all(event["cached"] for event in evaluated if event["model"] in {model.name for model in again})
    searched = [model for model in state_of(outputs / "run").population if model.generation > 2]
    assert searched
    assert all(model.predicted is not None for model in searched)


def test_a_lesson_starts_from_the_best_of_an_earlier_run_and_goes_on_without_it(
    evolve: Command, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    assert evolve(*SEARCH, "name=before").status == 0
    start = f"strategy.warm_start={outputs / 'before'}"
    lesson = (
        "strategy=recipe_gradient",
        "strategy.steps=2",
        "strategy.every=1",
        "strategy.total=4",
        "stop.evaluations=null",
    )
    outcome = evolve(*lesson, start, "stop.generations=2")
    assert outcome.status == 0, outcome.err
    state, before = state_of(outputs / "run"), state_of(outputs / "before").population
    (warm,) = [model for model in state.population if model.generation == 2]
    shutil.rmtree(outputs / "before")
    outcome = evolve(*lesson, start, "stop.generations=3", "resume=force")
    assert outcome.status == 0, outcome.err
    assert state_of(outputs / "run").population.generation == 3
    best = max((m for m in before if m.parents and (m.merge or {}).get("method") != "wudi"), key=before.value)
    assert warm.fingerprint == best.fingerprint


def test_a_run_that_cannot_be_started_from_is_refused_before_any_work(evolve: Command, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    check_refused(evolve(*SEARCH, f"strategy.warm_start={tmp_path}"), "is no run: there is no journal.jsonl in it")
    assert not outputs.exists()
    assert evolve(*SEARCH, "name=before", founders=FOUNDERS[:2]).status == 0
    assert evolve("strategy=kinship_topk", "merge=slerp", "stop.generations=1", "name=slerp").status == 0
    slerp = evolve(*SEARCH, f"strategy.warm_start={outputs / 'slerp'}")
    check_refused(slerp, "none of its merges is a weighted sum")
    few = evolve(*SEARCH, f"strategy.warm_start={outputs / 'before'}", "stop.evaluations=9")
    check_refused(few, "stop.evaluations=9 leaves none to search with")
    other = evolve(
        *SEARCH,
        f"strategy.warm_start={outputs / 'before'}",
        "stop.evaluations=30",
        founders=FOUNDERS[1:],
    )
    check_refused(other, "expected a run over the same base and at least two of these founders")
