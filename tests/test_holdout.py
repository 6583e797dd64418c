"""The honest winner: what is held out does not steer the search, and is scored at the end for it and the founders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.evaluation import evaluator, holdout, tasks
from src.holdout import main as winners_curse
from src.journal import HeldOut, Journal, State, parse, replay
from src.population import Model
from tests.conftest import Command
from tests.family import FOUNDERS, SAMPLES, TASKS
from tests.test_run import ALL_RULES_OFF, events
from tests.test_survival import state

HALF = ("evaluate.holdout=0.5", "stop.generations=1", *ALL_RULES_OFF)


def samples(outputs: Path, model: str, side: str = "select", name: str = "run") -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(holdout.place(outputs / name, model, side).read_text())["samples"]
    return found


def test_half_of_the_samples_steers_and_the_other_half_is_the_number_to_quote(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("track=tensorboard", *HALF)
    assert outcome.status == 0, outcome.err
    found = state(tmp_path / "outputs")
    winner = found.population.best(1)[0]
    assert list(found.holdout) == list(dict.fromkeys([*FOUNDERS, winner.name]))
    assert found.evaluations == len(found.population)
    assert found.samples == found.evaluations * SAMPLES // 2 * len(TASKS)
    told = events(tmp_path / "outputs")
    assert {one["samples"] for one in told if one["event"] == "held_out"} == {SAMPLES // 2 * len(TASKS)}
    for task in TASKS:
        steering = {model.name: set(samples(tmp_path / "outputs", model.name)[task]) for model in found.population}
        kept = {name: set(samples(tmp_path / "outputs", name, "holdout")[task]) for name in found.holdout}
        assert len({frozenset(ids) for ids in steering.values()}) == len({frozenset(ids) for ids in kept.values()}) == 1
        assert steering["red"] | kept["red"] == {str(i) for i in range(SAMPLES)}
        assert not steering["red"] & kept["red"]
    for name, scored in found.holdout.items():
        by_hand = [100 * np.mean(list(samples(tmp_path / "outputs", name, "holdout")[task].values())) for task in TASKS]
        assert scored.average == pytest.approx(np.mean(by_hand))
        assert list(scored.scores.values()) == pytest.approx(by_hand)
    said = f"holdout   {found.holdout[winner.name].average:.2f} ("
    (line,) = [line for line in outcome.out.splitlines() if said in line]
    assert line.endswith("the number to quote")
    (folder,) = (tmp_path / "outputs/run/tensorboard").iterdir()
    tracked = EventAccumulator(str(folder))
    tracked.Reload()
    (figure,) = tracked.Scalars("summary/holdout/best")
    assert figure.value == pytest.approx(found.holdout[winner.name].average)


def test_the_winner_is_compared_with_the_best_founder_on_the_same_samples(evolve: Command, tmp_path: Path) -> None:
    founders = FOUNDERS[:3]
    evolve(*HALF, "stop.generations=3", founders=founders)
    found = state(tmp_path / "outputs")
    assert set(found.compared) == {"select", "holdout"}
    for side, compared in found.compared.items():
        averages = holdout.averages(found, side)
        assert compared.winner == found.population.best(1)[0].name
        assert averages[compared.founder] == max(averages[name] for name in founders)
        assert compared.difference == pytest.approx(averages[compared.winner] - averages[compared.founder])
        assert compared.low < compared.difference < compared.high
        first, second = (samples(tmp_path / "outputs", name, side) for name in (compared.winner, compared.founder))
        pairs = [[first[task][doc] - second[task][doc] for doc in first[task]] for task in TASKS]
        assert compared.samples == sum(map(len, pairs))
        assert compared.difference == pytest.approx(100 * np.mean([np.mean(each) for each in pairs]))


def test_the_draw_is_the_seed_s_and_a_larger_limit_never_changes_sides(evolve: Command, tmp_path: Path) -> None:
    drawn = {}
    for name, *overrides in (
        ("whole", "evaluate.holdout=0.25"),
        ("limit-3", "evaluate.holdout=0.25", "evaluate.limit=3"),
        ("seed-1", "evaluate.holdout=0.25", "seed=1"),
    ):
        assert evolve(f"name={name}", "strategy=one_shot", *overrides).status == 0
        drawn[name] = [set(samples(tmp_path / "outputs", "red", side, name)[TASKS[0]]) for side in holdout.SIDES]
    assert [len(side) for side in drawn["whole"]] == [18, 6]
    assert [len(side) for side in drawn["limit-3"]] == [3, 3]
    for i in range(2):
        assert drawn["limit-3"][i] < drawn["whole"][i]
    assert drawn["seed-1"] != drawn["whole"]


def test_a_run_cut_within_the_holdout_goes_on_to_the_same_end(evolve: Command, tmp_path: Path) -> None:
    evolve(*HALF)
    whole = events(tmp_path / "outputs")
    journal = tmp_path / "outputs/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    first = next(n for n, event in enumerate(whole) if event["event"] == "held_out")
    assert {event["event"] for event in whole[first:]} == {"held_out", "compared", "stopped"}
    for keep in range(first, len(lines), 3):
        journal.write_bytes(b"".join(lines[:keep]) + lines[keep][:20])
        outcome = evolve(*HALF)
        assert outcome.status == 0, outcome.err
        assert events(tmp_path / "outputs") == whole


def test_a_second_run_holds_out_without_asking_again_and_another_share_asks(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evolve("name=first", "cache=on", *HALF).status == 0
    real, made = evaluator.run_tasks, []
    monkeypatch.setattr(evaluator, "run_tasks", lambda *a, **n: (made.append(None), real(*a, **n))[1])
    assert evolve("name=second", "cache=on", *HALF).status == 0
    assert made == []
    assert events(tmp_path / "outputs", "first")[1:] == events(tmp_path / "outputs", "second")[1:]
    evolve("name=third", "cache=on", *HALF, "evaluate.holdout=0.25")
    assert len(made) == len(state(tmp_path / "outputs", "third").holdout) + 7


def test_a_holdout_that_fails_costs_its_number_not_the_run_and_can_be_retried(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = evaluator.run_tasks, []

    def fails_at_the_end(*arguments: object, **named: object) -> object:
        calls.append(None)
        if len(calls) > 7:
            raise RuntimeError("the dog ate it")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "run_tasks", fails_at_the_end)
        outcome = evolve(*HALF)
    assert outcome.status == 0, outcome.err
    assert "red has no holdout score: evaluation: RuntimeError: the dog ate it" in outcome.out
    assert "holdout   none: evaluation: RuntimeError: the dog ate it; retry_failed=true tries again" in outcome.out
    assert (tmp_path / "outputs/run/best/model.safetensors").is_file()
    found = state(tmp_path / "outputs")
    assert not found.holdout
    assert all(model.failure is None for model in found.population)
    before = len(calls)
    assert "finished already" in evolve(*HALF).out
    assert len(calls) == before
    outcome = evolve("retry_failed=true", *HALF)
    assert outcome.status == 0, outcome.err
    assert "the number to quote" in outcome.out
    again = state(tmp_path / "outputs")
    assert again.population == found.population
    assert set(again.holdout) >= set(FOUNDERS)


def test_other_tasks_can_be_held_out_even_after_the_end(evolve: Command, tmp_path: Path) -> None:
    command = ("evaluate.tasks=[pico_words]", "stop.generations=1", *ALL_RULES_OFF)
    evolve("name=late", *command)
    assert "was None, is" in evolve("name=late", "evaluate.holdout=[pico_vowels]", *command).err
    outcome = evolve("name=late", "evaluate.holdout=[pico_vowels]", "resume=force", *command)
    assert outcome.status == 0, outcome.err
    assert evolve("name=early", "evaluate.holdout=[pico_vowels]", *command).status == 0
    late, early = state(tmp_path / "outputs", "late"), state(tmp_path / "outputs", "early")
    assert late.population == early.population
    assert late.holdout == early.holdout
    assert late.evaluations == early.evaluations == 7
    assert list(early.holdout["red"].scores) == ["pico_vowels"]
    assert evolve("name=late", "evaluate.holdout=0.5", "resume=force", *command).status == 2


def test_a_journal_from_before_there_was_a_holdout_is_read_and_gone_on_with(evolve: Command, tmp_path: Path) -> None:
    command = ("stop.generations=1", *ALL_RULES_OFF)
    evolve(*command)
    whole, journal = events(tmp_path / "outputs"), tmp_path / "outputs/run/journal.jsonl"
    old = [event for event in parse(journal)[0] if event["event"] not in {"compared", "stopped"}]
    del old[0]["settings"]["evaluate"]["holdout"]
    journal.unlink()
    written = Journal(journal)
    for event in old:
        written.append(**event)
    written.close()
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert [event for event in events(tmp_path / "outputs") if event["event"] != "resumed"][1:] == whole[1:]


def test_a_search_steered_by_a_well_known_test_set_says_so_once(evolve: Command, family: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    text = (copy / "tasks/pico_words.yaml").read_text()
    (copy / "tasks/arc_pico.yaml").write_text(text.replace("task: pico_words", "task: arc_pico"))
    words = "arc_pico steers the search and nothing is held out"
    plan = evolve("evaluate.tasks=[arc_pico]", "strategy=one_shot", "dry_run=true", at=copy)
    assert (plan.out + plan.err).count(f"warning: {words}") == 1
    outcome = evolve("evaluate.tasks=[arc_pico]", "strategy=one_shot", at=copy)
    assert outcome.err.count(f"warning: {words}") == 1
    card = tmp_path / "outputs/run/best/README.md"
    assert words in card.read_text()
    outcome = evolve("name=held", "evaluate.tasks=[arc_pico]", "evaluate.holdout=0.5", "strategy=one_shot", at=copy)
    assert words not in outcome.err
    assert words not in (tmp_path / "outputs/held/best/README.md").read_text()


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
def test_no_side_is_ever_empty(share: float) -> None:
    settings = evaluator.Evaluate.model_validate(
        {
            "tasks": ["any"],
            "include": None,
            "backend": "hf",
            "holdout": share,
            "limit": None,
            "batch_size": 1,
            "dtype": "auto",
            "model_args": {},
        }
    )

    class Leaf:
        task_name = "any"

        def __init__(self, count: int) -> None:
            self.eval_docs = range(count)

    for count in range(2, 40):
        sides = [tasks.draw(Leaf(count), settings, 3, held_out=held_out) for held_out in (False, True)]  # type: ignore[arg-type]
        assert all(side and side == sorted(set(side)) for side in sides)
        assert sorted((sides[0] or []) + (sides[1] or [])) == list(range(count))
    with pytest.raises(evaluator.UserError, match="any has 1 sample; leave that task out"):
        tasks.draw(Leaf(1), settings, 3, held_out=True)  # type: ignore[arg-type]


def test_the_winner_s_curse_is_measured_against_founders_nobody_picked() -> None:
    """Runs whose models are all worth the same: the best of many is overstated by what the best of the draws has."""
    rng = np.random.default_rng(7)
    states, expected = {}, []
    for family in range(30):
        easier = rng.normal(0, 3)
        scored = {f"{i}-1" if i else "a": (50 + easier + rng.normal(), 50 + rng.normal()) for i in range(12)}
        scored |= {name: (50 + easier + rng.normal(), 50 + rng.normal()) for name in ("b", "c")}
        models = tuple(
            Model(name, 0, () if name in "abc" else ("a", "b"), average=select) for name, (select, _) in scored.items()
        )
        found = State(models={model.name: model for model in models})
        found.holdout = {name: HeldOut({}, held_out, 1.0) for name, (_, held_out) in scored.items()}
        states[str(family)] = found
        expected.append(max(select for select, _ in scored.values()) - 50 - easier)
    curse = holdout.winners_curse(states)
    over = curse.overstated
    assert over.n == 30
    assert over.low < np.mean(expected) < over.high
    assert over.low > 0
    assert over.difference == pytest.approx(curse.winner - curse.founders)
    with pytest.raises(ValueError, match="two"):
        holdout.winners_curse({"one": states["0"], "none": State()})
    assert f"the winner by {over.difference:+.2f} points" in holdout.table(states)


def test_the_command_prints_the_curse_of_several_runs(
    evolve: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for seed in range(2):
        evolve(f"name=seed-{seed}", f"seed={seed}", "strategy=one_shot", "evaluate.holdout=0.5", founders=FOUNDERS[:2])
        runs.append(str(tmp_path / f"outputs/seed-{seed}"))
    assert winners_curse(runs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| seed-0", "| seed-1", "| mean of 2"]
    assert winners_curse(runs[:1]) == 2
    assert "takes finished runs with evaluate.holdout" in capsys.readouterr().err
    assert winners_curse([str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


def test_replay_keeps_the_sides_apart() -> None:
    found = replay(
        [
            {"event": "founder", "model": "a", "base": False, "source": "a", "fingerprint": "f"},
            {"event": "evaluated", "model": "a", "scores": {"t": 1.0}, "average": 1.0, "stderr": 0.1, "samples": 5}
            | {"seconds": 1.0},
            {"event": "held_out", "model": "a", "scores": {"t": 2.0}, "average": 2.0, "stderr": 0.2, "samples": 7}
            | {"seconds": 4.0},
        ]
    )
    assert found.population["a"].average == 1.0
    assert found.holdout["a"] == HeldOut({"t": 2.0}, 2.0, 0.2)
    assert (found.evaluations, found.samples) == (1, 5)
    assert found.spent.hours == pytest.approx(1 / 3600)
