"""A study on a PostgreSQL server, which the test starts itself; skipped where the server or its driver is missing."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import pytest

from src.compare import main as compare
from src.journal import run_state
from tests.sweep.test_sweep import Sweep, sweep, wait  # noqa: F401
from tests.test_kills import in_child

PASSWORD = "correct-horse"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Server:
    """A server of one database on a Unix socket, in a folder of its own; as root it runs as another user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql+psycopg://postgres:{PASSWORD}@/postgres?host={folder}"
        self._user = []
        if os.geteuid() == 0:
            known = {user.pw_name for user in pwd.getpwall()}
            name = "postgres" if "postgres" in known else "nobody"
            shutil.chown(folder, name)
            self._user = ["runuser", "-u", name, "--"]
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._call("initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")
        secret.unlink()

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-w", "-m", "immediate", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(PROGRAMS[-1] / program), "-D", str(self.folder / "data"), *arguments]
        # In the root folder: the other user may not enter this one. Not by pipes: the server would keep them open.
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        assert done.returncode == 0, (self.folder / "log").read_text() if (self.folder / "log").exists() else command


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="kinmerge-"))  # short, as a socket's name must be, and open to the server
    try:
        server = Server(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def trials(server: Server, name: str) -> Sequence[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=server.url).trials


def on(server: Server, name: str, count: int) -> list[str]:
    """The overrides of a sweep of so many trials whose study is on the server."""
    return [f"hydra.sweeper.storage='{server.url}'", f"sweep.study={name}", f"hydra.sweeper.n_trials={count}"]


def test_a_sweep_that_is_killed_goes_on_with_the_study_on_the_server(
    sweep: Sweep,  # noqa: F811
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "outputs/sweeps/killed"
    pid = in_child(lambda: sweep(*on(server, "killed", 3)).status)
    deadline = time.monotonic() + 60
    while not (folder / "1/journal.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    first = (folder / "0/journal.jsonl").read_bytes()
    outcome = sweep(*on(server, "killed", 3))
    assert outcome.status == 0, outcome.err
    assert "the study killed has 3 trials: 3 came to their end" in outcome.out
    assert [trial.state.name for trial in trials(server, "killed")] == ["COMPLETE"] * 3
    assert (folder / "0/journal.jsonl").read_bytes() == first
    for trial in trials(server, "killed"):
        state = run_state(folder / str(trial.number))
        assert state is not None
        assert state.population.best(1)[0].average == trial.value
    assert PASSWORD not in outcome.out + outcome.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert compare([server.url, "--json"]) == 0
    assert PASSWORD not in capsys.readouterr().out


def test_two_sweepers_share_the_trials_of_one_study(sweep: Sweep, server: Server, tmp_path: Path) -> None:  # noqa: F811
    pids = [in_child(lambda: sweep(*on(server, "shared", 4)).status) for _ in range(2)]
    assert [wait(pid, 120) for pid in pids] == [(True, 0)] * 2
    found = trials(server, "shared")
    assert len(found) == 4
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
    assert len({trial.user_attrs["sweeper"] for trial in found}) == 2


def test_a_server_that_goes_away_ends_the_sweep_in_a_line_and_the_same_command_goes_on(
    sweep: Sweep,  # noqa: F811
    server: Server,
    tmp_path: Path,
) -> None:
    journal, said = tmp_path / "outputs/sweeps/lost/0/journal.jsonl", tmp_path / "said"

    def start() -> int:
        outcome = sweep(*on(server, "lost", 2))
        said.write_text(outcome.err)
        return outcome.status

    pid = in_child(start)
    while not journal.exists():
        time.sleep(0.02)
    server.stop()
    try:
        assert wait(pid, 60) == (True, 1)
    finally:
        server.start()
    *_, last = said.read_text().splitlines()
    assert last.startswith("error: the study's storage postgresql+psycopg://postgres:***@/postgres")
    assert last.endswith("the same command goes on")
    assert PASSWORD not in said.read_text()
    assert sweep(*on(server, "lost", 2)).status == 0
    assert [trial.state.name for trial in trials(server, "lost")] == ["COMPLETE"] * 2


def test_a_wrong_password_costs_a_line(sweep: Sweep, server: Server) -> None:  # noqa: F811
    url = server.url.replace(PASSWORD, "wrong-staple")
    outcome = sweep(f"hydra.sweeper.storage='{url}'")
    assert outcome.status == 2
    assert "password authentication failed" in outcome.err
    assert "wrong-staple" not in outcome.err
    assert len(outcome.err.splitlines()) == 1
