"""A search of many runs through its front door, on the pico family: counted, killed, continued, shared."""

import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from src.compare import main as compare
from src.journal import run_state
from src.models import merging
from src.runtime import errors
from src.study.sweep.study import STARTS, StudySearch
from tests.conftest import Outcome, run
from tests.family import FOUNDERS, TASKS
from tests.test_kills import in_child
from tests.test_run import ALL_RULES_OFF
from tests.test_track import check_whole, dies_at, history, merged  # noqa: F401

Sweep = Callable[..., Outcome]


@pytest.fixture
def sweep(family: Path, tmp_path: Path) -> Sweep:
    """`python -m src.run -m +sweep=strategy` on the pico family: sweep("hydra.sweeper.n_trials=3", …)."""

    def command(*overrides: str, kind: str = "strategy") -> Outcome:
        models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)
        return run(
            *("-m", f"+sweep={kind}", "sweep.study=study", "stop.generations=2", "stop.evaluations=9"),
            *("founders=local", f"founders.base={family / 'base'}", f"founders.models={{{models}}}"),
            *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}"),
            *("evaluate.holdout=null", f"outputs={tmp_path / 'outputs'}", "track=none", "workers.threads=1"),
            *overrides,
        )

    return command


def study(tmp_path: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/outputs/sweeps/study/study.db")


def states(tmp_path: Path) -> list[str]:
    return [trial.state.name for trial in study(tmp_path).trials]


def folders(tmp_path: Path) -> list[int]:
    return sorted(int(path.name) for path in (tmp_path / "outputs/sweeps/study").iterdir() if path.name.isdigit())


def test_n_trials_is_the_total_however_often_the_sweep_is_continued(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = sweep("hydra.sweeper.n_trials=3")
    assert outcome.status == 0, outcome.err
    assert "the study study has 3 trials: 3 came to their end, 0 cut short, 0 failed" in outcome.out
    kept = {path: path.read_bytes() for path in tmp_path.rglob("journal.jsonl")}
    assert sweep("hydra.sweeper.n_trials=3").status == 0
    assert sweep("hydra.sweeper.n_trials=4").status == 0
    assert len(states(tmp_path)) == 4
    assert folders(tmp_path) == [0, 1, 2, 3]
    assert all(path.read_bytes() == before for path, before in kept.items())
    runs = compare_json(capsys, tmp_path / "outputs/sweeps/study")
    assert runs == compare_json(capsys, f"sqlite:///{tmp_path}/outputs/sweeps/study/study.db")
    assert sorted(run["run"] for run in runs) == ["0", "1", "2", "3"]


def compare_json(capsys: pytest.CaptureFixture[str], where: Path | str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert compare([str(where), "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["runs"]
    return found


def test_a_continued_sweep_tries_what_an_uninterrupted_one_tries(sweep: Sweep, tmp_path: Path) -> None:
    for total in (2, 5):
        sweep(f"hydra.sweeper.n_trials={total}", "hydra.sweeper.sampler.n_startup_trials=3")
    in_parts = [(trial.params, trial.value) for trial in study(tmp_path).trials]
    sweep("hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.n_startup_trials=3", f"outputs={tmp_path / 'whole'}")
    whole = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/whole/sweeps/study/study.db")
    assert in_parts == [(trial.params, trial.value) for trial in whole.trials]
    assert len({str(params) for params, _ in in_parts}) > 2


def test_a_trial_that_is_enqueued_by_hand_is_run(sweep: Sweep, tmp_path: Path) -> None:
    """Optuna keeps its parameters beside the trial; so did the sweeper's earlier versions."""
    sweep("hydra.sweeper.n_trials=1", "strategy=kinship_topk")
    begun = study(tmp_path)
    wanted = {**begun.trials[0].params, "strategy.k": 2}
    assert wanted != begun.trials[0].params
    begun.enqueue_trial(wanted)
    assert sweep("hydra.sweeper.n_trials=2", "strategy=kinship_topk").status == 0
    assert study(tmp_path).trials[1].params == wanted
    assert states(tmp_path) == ["COMPLETE", "COMPLETE"]


class Insistent(optuna.samplers.RandomSampler):
    """A sampler that has found its favourite."""

    def sample_independent(self, _study: object, _trial: object, _name: str, distribution: Any) -> Any:
        return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


def test_a_sampler_that_comes_back_to_its_favourite_is_overruled(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StudySearch._sampler

    def sampler(self: StudySearch, draw: int, *, by_chance: bool = False) -> Any:
        return real(self, draw, by_chance=True) if by_chance else Insistent()

    monkeypatch.setattr(StudySearch, "_sampler", sampler)
    assert sweep("hydra.sweeper.n_trials=5").status == 0
    assert len({str(trial.params) for trial in study(tmp_path).trials}) == 5


def test_the_first_trial_is_the_configuration_as_it_stands(sweep: Sweep, tmp_path: Path) -> None:
    sweep("hydra.sweeper.n_trials=1", "merge=ties")
    (first,) = study(tmp_path).trials
    assert first.params["strategy"] == "one_shot"
    assert "strategy.k" not in first.params  # which has none
    assert first.params["merge.each.density"] == 0.5
    assert "merge" not in first.params  # the command line has fixed it
    state = run_state(tmp_path / "outputs/sweeps/study/0")
    assert state is not None
    assert state.population.best(1)[0].average == first.value
    assert state.started is not None
    assert state.started["settings"]["merge"]["method"] == "ties"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sweep_killed_at_random_moments_ends_with_every_trial_once(sweep: Sweep, tmp_path: Path, seed: int) -> None:
    wanted, draw, kills = 4, random.Random(seed), 0
    while True:
        pid = in_child(lambda: sweep(f"hydra.sweeper.n_trials={wanted}", f"seed={seed}").status)
        ended, status = wait(pid, draw.uniform(0.5, 4.0) if kills < 4 else 120)
        if ended:
            break
        kills += 1
    assert status == 0
    assert set(states(tmp_path)) <= {"COMPLETE", "PRUNED"}
    assert len(states(tmp_path)) == wanted
    assert folders(tmp_path) == list(range(wanted))
    for number in range(wanted):
        state = run_state(tmp_path / f"outputs/sweeps/study/{number}")
        assert state is not None
        assert state.stopped is not None
    assert not list((tmp_path / "outputs/sweeps/study").glob(".sweeper-*"))


def wait(pid: int, seconds: float) -> tuple[bool, int]:
    """Whether the child has ended within that time, and how; it is killed if it has not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return True, os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False, -signal.SIGKILL


def test_a_failed_trial_is_a_failed_trial_and_not_the_end(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep("hydra.sweeper.n_trials=4", "strategy=greedy_topk", "strategy.k=choice(1,3)")
    assert outcome.status == 0, outcome.err
    trials = study(tmp_path).trials
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(trials) == 4
    assert 0 < len(failed) < 4
    assert all(str(trial.params["strategy.k"]) == "1" for trial in failed)
    assert f"error: sweeps/study/{failed[0].number}: strategy.k is 1" in outcome.err
    assert "strategy.k is 1" in failed[0].user_attrs["failure"]
    assert "Traceback" not in outcome.err


def test_a_sweep_without_one_good_trial_says_so(sweep: Sweep) -> None:
    outcome = sweep("hydra.sweeper.n_trials=2", "strategy=greedy_topk", "strategy.k=choice(0,1)", "stop.evaluations=8")
    assert outcome.status == 2
    assert "no trial came to its end" in outcome.err


def test_what_the_machine_failed_ends_the_sweep_in_a_line_and_fails_no_trial(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(errors, "PAUSES", ())
    for _ in range(STARTS + 1):
        with monkeypatch.context() as patch:
            patch.setattr(merging, "merge_in_memory", full)
            outcome = sweep("hydra.sweeper.n_trials=2")
        assert outcome.status == 1
        assert outcome.err.startswith("error: sweeps/study/0: 1-1, in ")
        assert "No space left on device; free some space; the same command goes on" in outcome.err
        assert outcome.err.count("\n") == 1
        assert states(tmp_path) == ["WAITING"]
    assert sweep("hydra.sweeper.n_trials=2").status == 0
    assert states(tmp_path) == ["COMPLETE", "COMPLETE"]


def test_a_sweep_in_which_nothing_was_merged_fails(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep("hydra.sweeper.n_trials=2", "merge=task_arithmetic", "merge.parameters.lambda=1e39")
    assert outcome.status == 1
    assert states(tmp_path) == ["FAIL", "FAIL"]
    assert "error: sweeps/study/0: no merge worked; the first, 1-1: 1-1 has NaN or infinite weights" in outcome.err
    assert "error: no trial came to its end" in outcome.err
    assert "Traceback" not in outcome.err


def test_hopeless_trials_are_cut_short_and_counted_as_such(sweep: Sweep, tmp_path: Path) -> None:
    command = ("strategy=kinship_topk", "strategy.k=3", *ALL_RULES_OFF)  # no other reason to end early
    sweep("hydra.sweeper.n_trials=1", *command)
    better = optuna.trial.create_trial(value=99.0, intermediate_values={0: 99.0, 1: 99.0})
    for _ in range(3):
        study(tmp_path).add_trial(better)
    outcome = sweep("hydra.sweeper.n_trials=6", *command)
    assert outcome.status == 0, outcome.err
    cut = [trial for trial in study(tmp_path).trials if trial.state == TrialState.PRUNED]
    assert cut
    for trial in cut:
        state = run_state(tmp_path / f"outputs/sweeps/study/{trial.number}")
        assert state is not None
        assert (state.stopped or "").startswith("hopeless: after generation 1 its best average was")
        assert state.population.generation == 1
        assert state.population.best(1)[0].average == trial.value


def test_two_figures_make_a_front(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep("hydra.sweeper.n_trials=3", kind="pareto")
    assert outcome.status == 0, outcome.err
    for trial in study(tmp_path).trials:
        state = run_state(tmp_path / f"outputs/sweeps/study/{trial.number}")
        assert state is not None
        assert trial.values == [state.population.best(1)[0].average, state.evaluations]
    assert "evaluations" in outcome.out.split("the study study has")[1]


MISTAKES = [
    (["evaluate.limit=0"], "evaluate.limit is 0"),
    (["founders.base=/no/such/model"], "/no/such/model"),
    (["sweep.prune.keep=0"], "sweep.prune.keep is 0"),
    (["sweep.objectives=[best,evaluations]"], "trials are cut short by that alone"),
    (["sweep.space=[{key: seed}]"], "(seed) needs either choices, or low and high"),
    (["sweep.study=../up"], "sweep.study"),
    (["merge=nope"], "merge=nope: no such option"),
    (["strategy.k=interval(5,1)"], "strategy.k=interval(5,1) cannot be searched: `low <= high` must hold"),
    (["strategy.k=interval(nan,2)"], "strategy.k=interval(nan,2) cannot be searched: its bounds must be numbers"),
    (["strategy.k=interval(a,b)"], "strategy.k=interval(a,b) could not be read as key=value"),
    (["strategy.k=tag(log,interval(0,1))"], "cannot be searched: `low > 0` must hold for `log=True`"),
    (["strategy.k=tag(a,b)"], "strategy.k=tag(a,b) could not be read as key=value"),
    (["strategy.k=range(5,1)"], "strategy.k=range(5,1): no value lies there"),
    (["strategy.k=range(1,5,0)"], "strategy.k=range(1,5,0): no value lies there"),
    (["strategy.k=choice()"], "empty choice is not legal"),
    (["strategy.k=shuffle(interval(1,2))"], "strategy.k=shuffle(interval(1,2)) could not be read as key=value"),
    (
        ["strategy=glob(*)"],
        "strategy=glob(*) cannot be searched: a search takes choice(a,b), range(1,5) or interval(0,1)",
    ),
    (["track=wandb", "track.mode=online"], "track.mode is online, and W&B has no API key here"),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES)
def test_a_mistake_costs_a_line_before_any_trial(
    sweep: Sweep, tmp_path: Path, overrides: list[str], words: str
) -> None:
    outcome = sweep(*overrides)
    assert outcome.status == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 2
    assert not (tmp_path / "outputs/sweeps").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("interval(1,5)", "interval(…) is for a search, +sweep=strategy for example"),
        ("range(5,1)", "strategy.k=range(5,1): no value lies there; expected range(START,STOP,STEP)"),
        ("range(1,5,0)", "strategy.k=range(1,5,0): no value lies there"),
        ("choice()", "empty choice is not legal"),
    ],
)
def test_a_mistake_costs_a_line_where_nothing_is_searched_either(value: str, words: str) -> None:
    outcome = run("-m", f"strategy.k={value}", "track=none")
    assert (outcome.status, words in outcome.err) == (2, True), outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_storage_out_of_reach_costs_a_line_without_its_password(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep("hydra.sweeper.storage='sqlite:////no/such/folder/study.db'")
    assert outcome.status == 2
    assert "the study's storage sqlite:////no/such/folder/study.db could not be opened" in outcome.err
    outcome = sweep("hydra.sweeper.storage='postgresql://me:secret@127.0.0.1:9/x'")
    assert outcome.status == 2
    assert "postgresql://me:***@127.0.0.1:9/x" in outcome.err
    assert "secret" not in outcome.out + outcome.err
    for wrong, words in (("nonsense", "no URL such as sqlite:///FILE"), ("null", "storage is null")):
        outcome = sweep(f"hydra.sweeper.storage={wrong}")
        assert outcome.status == 2
        assert words in outcome.err


def test_trials_of_other_settings_are_not_thrown_together(sweep: Sweep, tmp_path: Path) -> None:
    sweep("hydra.sweeper.n_trials=1", "stop.generations=1")
    outcome = sweep("hydra.sweeper.n_trials=2", "stop.generations=1", "evaluate.limit=5")
    assert outcome.status == 2
    assert "was begun with other settings" in outcome.err
    assert "evaluate.limit was None, is 5" in outcome.err
    (tmp_path / "outputs/sweeps/study/study.db").unlink()
    outcome = sweep("hydra.sweeper.n_trials=2", "stop.generations=1")
    assert outcome.status == 2
    assert "has runs of a study that is not in" in outcome.err


def test_a_merge_and_an_evaluation_are_paid_for_once_a_sweep(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep("hydra.sweeper.n_trials=4")
    assert outcome.status == 0, outcome.err
    found = [run_state(tmp_path / f"outputs/sweeps/study/{number}") for number in range(4)]
    known = sum(state.known["evaluated"] for state in found if state)
    asked = sum(state.asked["evaluated"] for state in found if state)
    models = {model.fingerprint for state in found if state for model in state.population}
    assert asked - known == len(models)  # each content was evaluated once
    merges = sum(state.asked["merged"] - state.known["merged"] for state in found if state)
    assert merges == len(models) - len(FOUNDERS)
    assert f"known from other runs: {known} of {asked} evaluations" in outcome.out.split("the study study has")[1]


def test_ctrl_c_ends_a_sweep_with_the_way_to_go_on(sweep: Sweep, tmp_path: Path) -> None:
    said = tmp_path / "said"

    def start() -> int:
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY), 2)
        return sweep("hydra.sweeper.n_trials=50").status

    pid = in_child(start)
    journal = tmp_path / "outputs/sweeps/study/0/journal.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert states(tmp_path)[-1] == "RUNNING"  # the trials are short: one may have ended before the signal was heard
    begun = len(states(tmp_path))
    assert sweep(f"hydra.sweeper.n_trials={begun}").status == 0
    assert states(tmp_path) == ["COMPLETE"] * begun


def test_the_runs_of_a_sweep_are_a_group_on_wandb_whole_even_of_a_trial_that_died_before_a_generation_was_sent(
    sweep: Sweep,
    tmp_path: Path,
    dies_at: Callable[[str], None],  # noqa: F811
) -> None:
    command = ("hydra.sweeper.n_trials=2", "track=wandb", "stop.generations=1")
    dies_at("closed")
    assert sweep(*command).status == 137
    (begun_trial,) = study(tmp_path).trials
    (tmp_path / f"outputs/sweeps/study/.sweeper-{begun_trial.user_attrs['sweeper']}").touch()  # a kill leaves its lock
    outcome = sweep(*command)
    assert outcome.status == 0, outcome.err
    for trial in study(tmp_path).trials:
        records = check_whole(tmp_path / f"outputs/sweeps/study/{trial.number}")
        assert [row["generation"] for row in history(records).values() if "average/best" in row] == [0, 1]
        (begun,) = [record["run"] for record in records if record["type"] == "run"]
        assert (begun["run_group"], begun["display_name"]) == ("study", f"sweeps/study/{trial.number}")
        assert (begun["job_type"], begun["tags"][0]) == ("trial", trial.params["strategy"])
        config, summary = merged(records, "config"), merged(records, "summary")
        assert config["sweep"] == {"study": "study", "trial": trial.number}
        assert config["strategy"]["name"] == trial.params["strategy"]
        assert {"seed", "stop", "kinship", "merge", "versions", "start"} <= set(config)
        assert summary["average/best"] == pytest.approx(trial.value)
        assert summary["stopped"]
        assert summary["cost/evaluations"] <= 9


def test_the_study_names_its_objectives(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep("hydra.sweeper.n_trials=1", kind="pareto").status == 0
    assert study(tmp_path).metric_names == ["best", "evaluations"]


@pytest.mark.slow
def test_workers_side_by_side_share_study_and_cache(sweep: Sweep, tmp_path: Path) -> None:
    outcome = sweep(
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4"),
    )
    assert outcome.status == 0, outcome.err
    assert len(states(tmp_path)) == 4
    assert folders(tmp_path) == [0, 1, 2, 3]
    assert set(states(tmp_path)) <= {"COMPLETE", "PRUNED"}
    found = [run_state(tmp_path / f"outputs/sweeps/study/{number}") for number in range(4)]
    assert sum(state.known["evaluated"] for state in found[2:] if state) >= 2 * len(FOUNDERS)


def test_seeds_repeat_one_configuration_each_in_a_folder_of_its_own(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)
    command = (
        *("-m", "+experiment=seeds", "seed=range(0,2)", "evaluate.limit=8", "stop.generations=1", "strategy.k=2"),
        *(
            "strategy=kinship_topk",
            "founders=local",
            f"founders.base={family / 'base'}",
            f"founders.models={{{models}}}",
        ),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}"),
        *("evaluate.holdout=null", f"outputs={tmp_path}", "track=none", "workers.threads=1"),
    )
    assert run(*command).status == 0
    kept = {path: path.read_bytes() for path in tmp_path.rglob("journal.jsonl")}
    assert sorted(path.parent.name for path in kept) == ["kinship_topk-slerp-0", "kinship_topk-slerp-1"]
    settings = [state.started["settings"] for path in kept if (state := run_state(path.parent)) and state.started]
    assert sorted((one["seed"], one["zoo"]["seed"]) for one in settings) == [(0, 0), (1, 1)]
    again = run(*command)
    assert again.status == 0
    assert again.out.count("has finished already") == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("journal.jsonl")} == kept
    assert compare([str(tmp_path / "seeds"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["configurations"]
    assert list(one["averages"]) == ["0", "1"]
