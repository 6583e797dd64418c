"""Two machines, as torchrun sees them: a launcher each, which meet at an address, over one folder of outputs."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import processes
from tests.conftest import run
from tests.test_processes import ROOT, command, told
from tests.test_run import events

pytestmark = pytest.mark.slow


def start(arguments: list[str], said: Path) -> list[subprocess.Popen[bytes]]:
    """A launcher for each of two machines; what it prints goes to `said`.0 and `said`.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "-m", "src.run"]
    found = []
    for machine in range(2):
        with Path(f"{said}.{machine}").open("w") as file:
            found.append(subprocess.Popen([*launcher, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT))
    return found


def test_two_machines_write_the_journal_of_one_process(family: Path, tmp_path: Path) -> None:
    machines = start(command(family, tmp_path, "by-two"), tmp_path / "said")
    assert [machine.wait(300) for machine in machines] == [0, 0], (tmp_path / "said.0").read_text()
    assert processes.wait(processes.start(1, lambda _: run(*command(family, tmp_path, "by-one")).status)) == [0]
    assert told(tmp_path, "by-two") == told(tmp_path, "by-one")
    assert '"processes":2' in (tmp_path / "by-two/journal.jsonl").read_text().splitlines()[0]


@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_machine_is_lost_the_other_ends_and_the_same_commands_go_on(
    family: Path, tmp_path: Path, lost: int
) -> None:
    arguments = command(family, tmp_path, "run")
    machines = start(arguments, tmp_path / "said")
    journal, deadline = tmp_path / "run/journal.jsonl", time.monotonic() + 300
    while not journal.exists() or len(events(tmp_path, "run")) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher = psutil.Process(machines[lost].pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        process.kill()
    assert machines[lost].wait(10) == -signal.SIGKILL
    assert machines[1 - lost].wait(120) not in {0, -signal.SIGKILL}
    assert "the same command goes on" in "".join((tmp_path / f"said.{machine}").read_text() for machine in range(2))
    machines = start(arguments, tmp_path / "said")
    assert [machine.wait(300) for machine in machines] == [0, 0], (tmp_path / "said.0").read_text()
    assert processes.wait(processes.start(1, lambda _: run(*command(family, tmp_path, "whole")).status)) == [0]
    assert told(tmp_path, "run") == told(tmp_path, "whole")
