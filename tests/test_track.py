"""What trackers are sent: from the journal alone, every candidate as it is found, and the same whenever it is sent."""

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src import track
from src.config import Track
from src.journal import Event, Journal, events_of
from src.report import page
from src.tracking import sender, trackers
from src.tracking.calls import EVALUATIONS, GENERATION, Call, Calls, axis
from src.tracking.sender import Sender
from tests.compare.journals import write_run
from tests.conftest import Command, Outcome
from tests.report.runs import Run
from tests.wandb_server import WandbServer, wandb_server

CANDIDATE = {
    *("candidate/average", "candidate/stderr", "candidate/generation", "candidate/exploration", "candidate/seconds"),
    *("candidate/best_so_far", "cost/evaluations", "cost/samples", "cost/hours", "cost/failures"),
    *(f"{what}/{task}" for what in ("scores", "stderr") for task in ("pico_vowels", "pico_words")),
}
"""The numbers of every model that was evaluated; of an offspring GAINED too."""
GAINED = {"candidate/gain", "candidate/kinship"}
GENERATIONAL = {
    *("generation", "average/best", "average/mean", "average/top_k", "objective/best", "kinship/top_k"),
    *("skills/normalised", "skills/worst", "cache/evaluations", "cache/merges"),
    *("seconds/merge", "seconds/measure", "seconds/evaluate"),
    *("cost/evaluations", "cost/samples", "cost/hours", "cost/failures"),
}
"""The numbers of every generation; of those with offspring OFFSPRING too."""
OFFSPRING = {"gain/best", "gain/mean", "kinship/parents"}
SUMMARY = {
    *("best", "average/best", "stopped", "holdout/best", "holdout/stderr", "holdout/gain", "holdout/gain_low"),
    *("holdout/gain_high", "holdout/p", "skills/holdout/normalised", "skills/holdout/worst"),
    "skills/holdout/worst_task",
}
TABLES = {"models", "kinship", "holdout", "skills", "compared"}
TWO = ("stop.generations=2", "stop.gain=null", "stop.unchanged=false", "evaluate.holdout=0.5")


def calls(events: Iterable[Event]) -> list[Call]:
    """All calls of a journal."""
    run = Calls()
    return [call for event in events if (call := run.add(event)) is not None]


def settings(tracker: str) -> Track:
    return Track.model_validate({"tracker": tracker, "project": "test", "group": "together", "mode": "offline"})


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of a run with failures, that has ended."""
    folder = tmp_path_factory.mktemp("run")
    return events_of(Run(folder, ("red", "green", "blue"), ("a", "b")).write(14, fail=("1-2",)))


def offline(folder: Path) -> list[Path]:
    """The offline files of a run, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def inspect(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's last offline file, as `wandb leet inspect` reads them."""
    deadline = time.monotonic() + 30
    while True:  # W&B's service may still be writing when finish() returns
        command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", *offline(folder)[-1:]]
        found = subprocess.run(command, capture_output=True, text=True).stdout
        records = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
        if any(record["type"] == "exit" for record in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.2)


def history(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What W&B was sent, by its step."""
    rows = [record["history"] for record in records if record["type"] == "history"]
    return {row["step"]["num"] if isinstance(row["step"], dict) else int(row["step"]): row["item"] for row in rows}


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """What all updates of one kind leave in the end."""
    found: dict[str, Any] = {}
    for record in records:
        if record["type"] == kind:
            found |= record[kind]["update"]
    return found


def figures_in(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: v
        for name, v in row.items()
        if isinstance(v, int | float) and not name.startswith("_") and "." not in name
    }


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_call_follows_from_one_line_and_from_those_before_it_alone(journal: list[Event]) -> None:
    whole = calls(journal)
    for length in range(len(journal) + 1):
        assert calls(journal[:length]) == [call for call in whole if call.step <= length]
    kinds = {"evaluated": EVALUATIONS, "failed": EVALUATIONS, "closed": GENERATION, "stopped": GENERATION}
    expected = [(n, kinds[event["event"]]) for n, event in enumerate(journal, 1) if event["event"] in kinds]
    assert [(call.step, call.axis) for call in whole] == expected


def test_numbers_are_finite_numbers_each_over_one_axis(journal: list[Event]) -> None:
    for call in calls(journal):
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in call.numbers.values())
        assert call.axis in call.numbers
        assert {axis(name) for name in call.numbers if name not in {EVALUATIONS, GENERATION}} <= {
            EVALUATIONS,
            call.axis,
        }
    failures = [call.numbers["cost/failures"] for call in calls(journal) if "cost/failures" in call.numbers]
    assert (failures[0], failures[-1]) == (0, 1)


def test_the_base_that_a_search_evaluates_costs_and_is_no_candidate(tmp_path: Path) -> None:
    first, second, *_ = calls(events_of(write_run(tmp_path / "run", [50, 49, 53], base=20.0)))
    assert first.numbers[EVALUATIONS] == 1
    assert not any(name.startswith("candidate/") for name in first.numbers)
    assert second.numbers["candidate/average"] == second.numbers["candidate/best_so_far"] == 50


def test_every_candidate_is_sent_as_soon_as_its_journal_has_it(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "outputs/run/journal.jsonl"

    class Watching(trackers.Tracker):
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def send(self, call: Call) -> None:
            told.append((call.step, len(path.read_text().splitlines())))

    monkeypatch.setattr(trackers, "TensorBoard", Watching)
    assert evolve("track=tensorboard", *TWO).status == 0
    assert [step for step, _ in told] == [lines for _, lines in told]
    assert [step for step, _ in told] == [call.step for call in calls(events_of(path.parent))]


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "none"])
def test_every_tracker_takes_a_whole_run(name: str, journal: list[Event], tmp_path: Path) -> None:
    best = tmp_path / "best"
    best.mkdir()
    (best / "README.md").write_text("the best")
    sending = sender.start(settings(name), tmp_path, journal)
    sending.catch_up()
    sending.model(best)
    sending.figures({})
    sending.finish()
    assert (tmp_path / name).is_dir() is (name != "none")


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_only_the_main_process_tracks(name: str, journal: list[Event], tmp_path: Path) -> None:
    sending = sender.start(settings(name), tmp_path, journal, main=False)
    sending.catch_up()
    sending.model(tmp_path)
    sending.finish()
    assert not any(tmp_path.iterdir())


# --- W&B, offline -----------------------------------------------------------------------------------------------------


def check_whole(folder: Path) -> list[dict[str, Any]]:
    """Hold a run's last offline file against its journal, scalar by scalar, step by step and table by table."""
    records = inspect(folder)
    rows, expected = history(records), {call.step: call for call in calls(events_of(folder))}
    assert rows.keys() - {max(rows)} == expected.keys() - ({max(rows)} - {max(expected)})
    for step, call in expected.items():
        assert figures_in(rows[step]) == pytest.approx(dict(call.numbers)), step
        assert {key.partition(".")[0] for key in rows[step] if "._type" in key} == call.tables.keys(), step
        for name, table in call.tables.items():
            kept = json.loads((offline(folder)[-1].parent / "files" / rows[step][f"{name}.path"]).read_text())
            assert kept["columns"] == list(table.columns)
            assert kept["data"] == json.loads(json.dumps(table.rows))
    return records


def test_an_offline_run_read_back_has_every_scalar_step_and_table(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("track=wandb", "track.group=together", *TWO)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "outputs/run"
    records = check_whole(folder)
    events, rows = dict(enumerate(events_of(folder), 1)), history(records)
    for step, row in rows.items():
        event = events.get(step, {"event": "figures"})
        names = set(figures_in(row))
        if event["event"] == "evaluated":
            assert names == CANDIDATE | (GAINED if "-" in event["model"] else set())
        elif event["event"] == "closed":
            assert names == GENERATIONAL | (OFFSPRING if event["generation"] else set())
            assert row["generation"] == event["generation"]
            assert "models._type" in row
        elif event["event"] == "stopped":
            assert names == {"generation"}
            assert {key.partition(".")[0] for key in row if "._type" in key} == TABLES - {"models"}
        else:
            assert step == len(events) + 1
            drawn = {key.removeprefix("figures/").partition(".")[0] for key in row if key.startswith("figures/")}
            assert {"best-by-generation", "pedigree", "kinship-by-average", "kinship-gain", "scores", "time"} <= drawn
    assert merged(records, "summary").keys() >= SUMMARY
    (begun,) = [record["run"] for record in records if record["type"] == "run"]
    assert (begun["display_name"], begun["run_group"], begun["job_type"]) == ("run", "together", "evolution")
    assert begun["tags"] == ["kinship_topk", "slerp", "pcc"]
    axes = {metric.get("glob_name"): metric.get("step_metric") for metric in of_type(records, "metric")}
    assert (axes["candidate/*"], axes["scores/*"], axes["average/*"]) == (EVALUATIONS, EVALUATIONS, GENERATION)


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def test_the_winner_is_an_artifact_that_refers_to_its_weights(evolve: Command, tmp_path: Path) -> None:
    assert evolve("track=wandb", *TWO).status == 0
    best = tmp_path / "outputs/run/best"
    records = inspect(best.parent)
    (model,) = [artifact for artifact in of_type(records, "artifact") if artifact["type"] == "model"]
    contents = {entry["path"]: entry for entry in model["manifest"]["contents"]}
    assert contents["checkpoint/model.safetensors"]["ref"] == (best / "model.safetensors").as_uri()
    assert {"README.md", "recipe.yaml"} <= contents.keys()
    assert all("ref" in entry for path, entry in contents.items() if path.startswith("checkpoint/"))
    files = {f"checkpoint/{file.relative_to(best)}" for file in best.rglob("*") if file.is_file()}
    assert {path for path in contents if path.startswith("checkpoint/")} == files
    about = json.loads(model["metadata"])
    state = track_state(best.parent)
    assert about["winner"] == state.population.best(1)[0].name
    assert about["fingerprint"] == state.population.best(1)[0].fingerprint


def track_state(folder: Path) -> Any:
    from src.journal import replay

    return replay(events_of(folder))


class Died(SystemExit):
    """As if the process were killed here: nothing after it is done."""


@pytest.fixture
def dies_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the next run die once its journal has an event of a kind, and before its tracker is told."""

    def arrange(kind: str) -> None:
        real = Sender.catch_up

        def catch_up(self: Sender) -> None:
            if self._events[-1]["event"] == kind:
                monkeypatch.setattr(Sender, "catch_up", real)
                raise Died(137)
            real(self)

        monkeypatch.setattr(Sender, "catch_up", catch_up)

    return arrange


@pytest.mark.parametrize("kind", ["evaluated", "closed", "compared", "stopped"])
def test_a_run_that_died_before_its_tracker_was_told_tells_it_all_when_it_goes_on(
    evolve: Command, tmp_path: Path, dies_at: Callable[[str], None], kind: str
) -> None:
    dies_at(kind)
    assert evolve("track=wandb", *TWO).status == 137
    outcome = evolve("track=wandb", *TWO)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "outputs/run"
    assert len(offline(folder)) == 1  # which has all of the run: the one of the first start is gone
    records = check_whole(folder)
    assert merged(records, "summary").keys() >= SUMMARY


def test_what_is_sent_later_or_again_is_what_was_sent_live(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("track=wandb", "name=live", *TWO)
    assert outcome.status == 0, outcome.err
    assert evolve("track=none", *TWO).status == 0
    live, later = tmp_path / "outputs/live", tmp_path / "outputs/run"
    assert not (later / "wandb").exists()
    assert track.main([str(later), "--project", "mine", "--group", "papers"]) == 0
    first = check_whole(later)
    assert merged(first, "summary").keys() >= SUMMARY
    (begun,) = of_type(first, "run")
    assert (begun["project"], begun["run_group"]) == ("mine", "papers")
    assert [a["type"] for a in of_type(first, "artifact")].count("model") == 1

    def shape(records: list[dict[str, Any]]) -> list[tuple[int, list[str]]]:
        return [(step, sorted(key for key in row if key[0] != "_")) for step, row in history(records).items()]

    assert shape(first) == shape(inspect(live))
    assert track.main([str(later)]) == 0
    assert shape(check_whole(later)) == shape(first)


def test_a_folder_of_runs_is_sent_and_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Run(tmp_path / "runs" / name, ("red", "green", "blue"), ("a",)).write(6, end=None)
    under_way = Journal(tmp_path / "runs/b/journal.jsonl")
    assert track.main([str(tmp_path / "runs"), "--tracker", "tensorboard"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'runs/a'}: ")
    assert "to TensorBoard: tensorboard --logdir" in said.out
    assert said.err.startswith(f"left out: {tmp_path / 'runs/b'} is under way")
    for arguments, words in (
        ([str(tmp_path / "runs/b")], "is under way, and sends what it finds itself"),
        ([str(tmp_path / "nothing")], "no run lies there"),
        ([str(tmp_path / "runs/a"), "--mode", "online"], "W&B has no API key here"),
    ):
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert track.main(arguments) == 2
        assert words in capsys.readouterr().err
    under_way.close()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert track.main([str(tmp_path / "runs/a"), "--tracker", "wandb"]) == 2
    assert "nothing would be sent" in capsys.readouterr().err


def test_a_tracker_that_fails_ends_the_command_that_sends_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Run(tmp_path, ("red", "green", "blue"), ("a",)).write(6)
    monkeypatch.setattr(trackers.TensorBoard, "send", failing)
    assert track.main([str(folder), "--tracker", "tensorboard"]) == 1
    assert "was not sent as a whole (the line is dead); the same command begins anew" in capsys.readouterr().err


def failing(*_: object) -> None:
    raise ConnectionError("the line is dead")


def test_wandb_keeps_no_secret_of_the_command_line(evolve: Command, tmp_path: Path) -> None:
    assert evolve("track=wandb", "evaluate.model_args.token=of-somebody", "stop.generations=1").status == 0
    records = inspect(tmp_path / "outputs/run")
    (environment,) = [one for one in of_type(records, "environment") if "args" in one]
    assert "evaluate.model_args.token=***" in environment["args"]
    assert "of-somebody" not in json.dumps(records)
    assert merged(records, "config")["evaluate"]["model_args"] == {"token": "***"}


# --- W&B, online ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that W&B's client takes for its own."""
    with wandb_server() as listening:
        monkeypatch.setenv("WANDB_BASE_URL", listening.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE")
        wandb.teardown()  # it reads its environment once
        yield listening
        wandb.teardown()


def test_online_a_run_that_goes_on_sends_what_is_missing_and_so_does_src_track(
    evolve: Command, tmp_path: Path, server: WandbServer, dies_at: Callable[[str], None]
) -> None:
    dies_at("closed")
    assert evolve("track=wandb", *TWO).status == 137
    ((identity, sent),) = server.runs.items()
    before = len(sent.lines)
    assert before == 4  # the founders; that generation 0 has closed was not sent
    outcome = evolve("track=wandb", *TWO)
    assert outcome.status == 0, outcome.err
    assert server.runs.keys() == {identity}
    assert min(offset for offset in sent.offsets if offset >= before) == before
    check_sent(sent.lines, tmp_path / "outputs/run")
    assert any(one["artifactTypeName"] == "model" for one in sent.artifacts)
    whole = dict(sent.lines)
    assert track.main([str(tmp_path / "outputs/run")]) == 0
    assert sent.lines == whole  # nothing was missing
    assert track.main([str(tmp_path / "outputs/run"), "--anew"]) == 0
    other = next(run for name, run in server.runs.items() if name != identity)
    assert other.offsets[0] == 0
    check_sent(other.lines, tmp_path / "outputs/run")


def test_what_was_written_offline_can_be_synced_as_a_whole_after_any_number_of_starts(
    evolve: Command, tmp_path: Path, dies_at: Callable[[str], None], server: WandbServer
) -> None:
    folder = tmp_path / "outputs/run"
    offline_too = ("track=wandb", "track.mode=offline", *TWO)
    dies_at("closed")
    assert evolve(*offline_too).status == 137
    assert evolve(*offline_too).status == 0
    inspect(folder)  # waits for the last of it
    (identity,) = {file.stem.removeprefix("run-") for file in offline(folder)}
    command = [Path(sys.executable).parent / "wandb", "sync", folder / "wandb/latest-run"]
    synced = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert synced.returncode == 0, synced.stderr
    check_sent(server.runs[identity].lines, folder)
    assert track.main([str(folder), "--mode", "offline"]) == 0
    assert len(offline(folder)) == 2  # what was synced is left alone


def check_sent(lines: dict[int, dict[str, Any]], folder: Path) -> None:
    """Hold what a server has of a run against its journal: every call once, in order, and the figures."""
    expected = list(calls(events_of(folder)))
    ordered = [lines[place] for place in sorted(lines)]
    assert [line["_step"] for line in ordered] == [*(call.step for call in expected), len(events_of(folder)) + 1]
    for line, call in zip(ordered, expected, strict=False):
        assert {name: line[name] for name in call.numbers} == pytest.approx(dict(call.numbers))


@pytest.mark.parametrize("kind", ["absent", "silent"])
def test_a_server_that_cannot_be_reached_or_never_answers_leaves_offline_files_and_a_line(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if kind == "silent" else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setattr(trackers, "PATIENCE", 3)
        wandb.teardown()  # it reads its environment once
        outcome = evolve("track=wandb", "stop.generations=1")
    wandb.teardown()
    assert outcome.status == 0, outcome.err
    assert "warning: W&B could not be reached" in outcome.err
    check_whole(tmp_path / "outputs/run")
    assert "0" * 40 not in "".join(
        file.read_text(errors="replace") for file in (tmp_path / "outputs").rglob("*") if file.is_file()
    )


def test_without_a_key_wandb_is_offline_and_with_one_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert trackers._mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert trackers._mode("auto") == "online"
    assert trackers._mode("offline") == "offline"


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def accumulated(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(next((folder / "tensorboard").iterdir())))
    found.Reload()
    return found


def test_tensorboard_has_every_scalar_once_however_often_the_run_went_on(
    evolve: Command, tmp_path: Path, dies_at: Callable[[str], None]
) -> None:
    dies_at("closed")
    assert evolve("track=tensorboard", *TWO).status == 137
    assert evolve("track=tensorboard", *TWO).status == 0
    folder = tmp_path / "outputs/run"
    found = accumulated(folder)
    for name in (CANDIDATE | GENERATIONAL | GAINED | OFFSPRING) - {EVALUATIONS, GENERATION}:
        rows = [call for call in calls(events_of(folder)) if axis(name) == call.axis and name in call.numbers]
        steps = [(int(call.numbers[call.axis]), pytest.approx(call.numbers[name], abs=1e-4)) for call in rows]
        assert [(event.step, event.value) for event in found.Scalars(name)] == steps, name
    texts = {tag.removesuffix("/text_summary") for tag in found.Tags()["tensors"]}
    assert {*TABLES, "summary/best", "summary/stopped", "best/README.md", "best/recipe.yaml"} <= texts
    assert {f"summary/{name}" for name in SUMMARY} <= {*texts, *found.Tags()["scalars"]}


def test_tensorboard_has_the_settings_as_hyperparameters_not_as_texts(evolve: Command, tmp_path: Path) -> None:
    assert evolve("track=tensorboard", "stop.generations=1").status == 0
    found = accumulated(tmp_path / "outputs/run")
    assert not [tag for tag in found.Tags()["tensors"] if tag.startswith("config/")]
    content = found.PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert session["strategy.name"].string_value == "kinship_topk"
    assert (session["strategy.k"].number_value, session["stop.kinship"].number_value) == (3, 0.9)
    assert not {"outputs", "name", "founders.base", "start.command", "track.project"} & set(session)
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} == set(trackers.HPARAM_METRICS)


def test_a_tracker_that_fails_costs_its_figures_and_a_line_not_the_run(
    evolve: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.TensorBoard, "send", failing)
    outcome: Outcome = evolve("track=tensorboard", "stop.generations=1")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("tracking failed and goes on no further (the line is dead)") == 1
    assert "run sends them later" in outcome.err


def test_a_page_that_cannot_be_made_costs_a_line(
    evolve: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "sections", failing)
    outcome = evolve("track=none", "stop.generations=1")
    assert outcome.status == 0, outcome.err
    assert "the page failed (the line is dead)" in outcome.err
