"""One contract for every tracker, and W&B's offline files read back."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from plotly.graph_objects import Figure, Scatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config import Track
from src.tracking import trackers
from tests.conftest import Command

CONFIG = {"seed": 3, "strategy": {"name": "kinship_topk", "k": 3}}


def settings(tracker: str) -> Track:
    return Track.model_validate({"tracker": tracker, "project": "test", "group": "together", "mode": "offline"})


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_every_tracker_takes_a_whole_run(name: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("the best")
    tracker = trackers.start(settings(name), tmp_path, CONFIG)
    for generation in range(3):
        tracker.log({"average/best": 50.0 + generation, "cost/evaluations": 4}, generation)
        tracker.table("models", ["model", "average"], [["1-1", 50.0], ["1-2", None]], generation)
    tracker.figure("pedigree", Figure(Scatter(x=[1], y=[2])), 2)
    tracker.summary({"best": "1-1", "average/best": 52.0})
    tracker.artifact(card, "card")
    tracker.finish()
    assert (tmp_path / name).is_dir() is (name != "none")


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_only_the_main_process_tracks(name: str, tmp_path: Path) -> None:
    assert type(trackers.start(settings(name), tmp_path, CONFIG, main=False)) is trackers.Tracker
    assert not any(tmp_path.iterdir())


def inspect(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's offline file, as `wandb leet inspect` reads them."""
    deadline = time.monotonic() + 30
    while True:  # W&B's service may still be writing when finish() returns
        files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
        wandb = Path(sys.executable).parent / "wandb"
        found = subprocess.run([wandb, "leet", "inspect", "--json", *files], capture_output=True, text=True).stdout
        records = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
        if any(record["type"] == "exit" for record in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.2)


def test_an_offline_run_read_back_has_every_figure_of_every_generation(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(
        "track=wandb", "track.group=together", "stop.generations=2", "stop.gain=null", "stop.unchanged=false"
    )
    assert outcome.status == 0, outcome.err
    records = inspect(tmp_path / "outputs/run")
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    scalars = [row for row in rows if "average/best" in row]
    assert [row["generation"] for row in scalars] == [0, 1, 2]
    for row in scalars[1:]:
        assert {
            "average/best",
            "average/top_k",
            "average/mean",
            "gain/best",
            "gain/mean",
            "kinship/parents",
            "kinship/top_k",
            "cost/evaluations",
            "cost/samples",
            "seconds/merge",
            "seconds/measure",
            "seconds/evaluate",
        } <= set(row)
    assert sum("models" in key for row in rows for key in row) >= 3
    for figure in ("best-by-generation", "pedigree", "kinship-by-average", "kinship-gain", "scores", "time"):
        assert any(f"figures/{figure}._type" in row for row in rows), figure
    text = json.dumps(records)
    for word in ("together", "kinship_topk", "the budget of 2 generations is spent", "README.md"):
        assert word in text


def test_tensorboard_has_the_figures_and_the_tables_as_text(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("track=tensorboard", "stop.generations=1")
    assert outcome.status == 0, outcome.err
    (folder,) = (tmp_path / "outputs/run/tensorboard").iterdir()
    found = EventAccumulator(str(folder))
    found.Reload()
    assert [event.step for event in found.Scalars("average/best")] == [0, 1]
    assert "models/text_summary" in found.Tags()["tensors"]


def test_without_a_key_wandb_is_offline_and_with_one_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert trackers._mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert trackers._mode("auto") == "online"
    assert trackers._mode("offline") == "offline"


@pytest.mark.parametrize("server", ["absent", "silent"])
def test_a_server_that_cannot_be_reached_or_never_answers_leaves_offline_files_and_a_line(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if server == "silent" else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setattr(trackers, "PATIENCE", 3)
        wandb.teardown()  # it reads its environment once
        outcome = evolve("track=wandb", "stop.generations=1")
    wandb.teardown()
    assert outcome.status == 0, outcome.err
    assert "warning: W&B could not be reached" in outcome.err
    assert any(record["type"] == "history" for record in inspect(tmp_path / "outputs/run"))
    assert "0" * 40 not in "".join(
        file.read_text(errors="replace") for file in (tmp_path / "outputs").rglob("*") if file.is_file()
    )


def test_a_tracker_that_fails_costs_its_figures_and_a_line_not_the_run(
    evolve: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(trackers.TensorBoard, "log", fail)
    outcome = evolve("track=tensorboard", "stop.generations=1")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("tracking failed and goes on no further (the line is dead)") == 1
