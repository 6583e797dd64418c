"""W&B without a key, with a bad one or with variables it cannot read: a line before any work, never a question."""

import os
import pty
import select
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb

from src.runtime.opening import READING
from src.tracking import trackers
from tests.conftest import Command

ROOT = Path(__file__).parent.parent
SHORT = "a-key-that-is-too-short"


@pytest.fixture(autouse=True)
def _without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("mode", "variables", "words"),
    [
        (
            "online",
            {},
            "track.mode is online, and W&B has no API key here; set WANDB_API_KEY, log in with `wandb login`",
        ),
        ("auto", {"WANDB_MODE": "online"}, "WANDB_MODE is online, and W&B has no API key here"),
        ("auto", {"WANDB_MODE": "garbage"}, "WANDB_MODE is 'garbage'; expected online, offline or disabled"),
        ("offline", {"WANDB_MODE": "\x1b[31m"}, r"WANDB_MODE is '\x1b[31m'; expected"),
        ("auto", {"WANDB_MODE": ""}, "WANDB_MODE is ''; expected"),
        (
            "online",
            {"WANDB_API_KEY": SHORT},
            "W&B's API key cannot be used (WANDB_API_KEY invalid: API key must have 40+",
        ),
        ("auto", {"WANDB_BASE_URL": "nowhere"}, "WANDB_BASE_URL is nothing that W&B takes"),
        ("offline", {"WANDB_CONSOLE": "maybe"}, "WANDB_CONSOLE is nothing that W&B takes (Input should be 'auto'"),
    ],
)
def test_what_wandb_would_stumble_over_is_refused_before_any_work(
    evolve: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    variables: dict[str, str],
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    outcome = evolve("track=wandb", f"track.mode={mode}")
    assert outcome.status == 2, outcome.out + outcome.err
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert SHORT not in outcome.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("told", "tracks"), [("disabled", False), ("dryrun", True), ("offline", True)])
def test_the_modes_that_wandb_s_variable_may_ask_for(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, tracks: bool
) -> None:
    monkeypatch.setenv("WANDB_MODE", told)
    wandb.teardown()  # it reads its environment once
    outcome = evolve("track=wandb", "stop.generations=1", founders=("red", "green"))
    wandb.teardown()
    assert (outcome.status, "warning" in outcome.err) == (0, False), outcome.err
    assert bool(list((tmp_path / "outputs/run").glob("wandb/offline-run-*"))) is tracks


def test_the_key_that_wandb_login_has_written_is_found(tmp_path: Path) -> None:
    assert trackers._mode("auto") == "offline"
    host = urlsplit(wandb.Settings().base_url).netloc
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    assert trackers._mode("auto") == "online"


def test_the_parts_of_wandb_that_are_not_public_are_those_of_this_version() -> None:
    assert version("wandb").startswith("0.31.")


def test_nothing_is_asked_on_a_terminal() -> None:
    said, status = on_a_terminal(["-m", "src.run", "dry_run=true", "track=wandb", "track.mode=online"])
    assert status == 2, said
    first, *lines = said.splitlines()
    assert first == READING
    assert len(lines) == 1
    assert lines[0].startswith("error: track.mode is online, and W&B has no API key here;")


def test_a_key_that_is_gone_by_the_time_it_is_needed_costs_a_warning_not_a_question(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from src.tracking import trackers; from src.config import Track\n"
        "from src.tracking.about import About; from src.tracking.calls import Call\n"
        "settings = Track(tracker='wandb', project='p', group=None, mode='online')\n"
        "run = About('id', 'name', 'evolution', [], {'seed': 0})\n"
        f"tracker = trackers.WandB(settings, Path({str(tmp_path)!r}), run)\n"
        "tracker.send(Call(1, 'generation', {'generation': 0, 'average/best': 1.0}))\n"
        "tracker.finish()\n"
    )
    said, status = on_a_terminal(["-c", code])
    assert status == 0, said
    (line,) = said.splitlines()
    assert line.startswith("warning: W&B could not be reached (No API key configured.")
    assert list(tmp_path.glob("wandb/offline-run-*"))


def on_a_terminal(arguments: list[str], patience: float = 120) -> tuple[str, int]:
    """What a Python says to a terminal at which nobody types, and its exit status; killed if it waits for that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    said, deadline = b"", time.monotonic() + patience
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
    else:
        process.kill()
    os.close(ours)
    return said.decode(errors="replace"), process.wait()
