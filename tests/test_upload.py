"""The winner on the hub: all of its real client, in processes of their own; only the hub itself is a local one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.runtime.opening import READING
from tests.conftest import Outcome, run
from tests.family import TASKS
from tests.hub import TOKEN, Hub, serving
from tests.test_mistakes import check_refused

ROOT = Path(__file__).parent.parent
UPLOAD = (
    "from pathlib import Path; import sys; from src.export import upload; from src.config import Publish\n"
    "settings = Publish(repo_id='me/merged', private=sys.argv[2] == 'private')\n"
    "upload.check(settings)\n"
    "upload.upload(Path(sys.argv[1]), settings)"
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def finished(family: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command of a run that has come to its end."""
    command = (
        *("strategy=kinship_topk", "founders=local", f"founders.base={family / 'base'}"),
        f"founders.models={{red:{family / 'red'},green:{family / 'green'}}}",
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.holdout=null"),
        *(f"outputs={tmp_path_factory.mktemp('published')}", "name=run", "track=none", "cache=off"),
        *("workers.threads=1", "stop.generations=1"),
    )
    assert run(*command).status == 0
    return command


def best_of(command: tuple[str, ...]) -> Path:
    (outputs,) = (Path(key.removeprefix("outputs=")) for key in command if key.startswith("outputs="))
    return outputs / "run/best"


def started(arguments: list[str], home: Path, **environment: str) -> Outcome:
    """A Python of its own, with nothing of the hub's client configured but by the environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
    # Chunks as they are, so that the local hub can put files together with what Python brings.
    given = {"HF_HOME": str(home), "HF_XET_XORB_COMPRESSION_POLICY": "none", **environment}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**kept, **given}, capture_output=True, text=True, timeout=180
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def upload(folder: Path, hub: str, home: Path, private: str = "private") -> Outcome:
    return started(["-c", UPLOAD, str(folder), private], home, HF_ENDPOINT=hub, HF_TOKEN=TOKEN)


def test_a_finished_run_s_winner_is_uploaded_whole_when_asked(
    finished: tuple[str, ...], hub: Hub, tmp_path: Path
) -> None:
    command = ["-m", "src.run", *finished]
    outcome = started([*command, "publish.repo_id=me/merged"], tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert outcome.status == 0, outcome.err
    assert f"uploaded to {hub.url}/me/merged" in outcome.out, outcome.err
    assert outcome.err == f"{READING}\n"
    best = best_of(finished)
    assert "model.safetensors" in hub.files
    assert hub.files == {file.name: file.read_bytes() for file in best.iterdir()}
    assert hub.repos["me/merged"]["visibility"] == "private"
    written = [file for root in (best.parent, tmp_path) for file in root.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]
    assert TOKEN not in outcome.out + outcome.err


@pytest.mark.parametrize("store", ["xet", "lfs"])
def test_what_is_uploaded_again_replaces_what_was_there_and_nothing_new_is_no_commit(
    hub: Hub, tmp_path: Path, store: str
) -> None:
    folder = tmp_path / "best"
    folder.mkdir()
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": str(int(store == "lfs"))}
    for number, commits in ((1, 1), (1, 1), (2, 2)):
        (folder / "README.md").write_text(f"# {number}")
        (folder / "model.safetensors").write_bytes(bytes([number]) * 300_000)
        outcome = started(["-c", UPLOAD, str(folder), "public"], tmp_path, **environment)
        assert "uploaded to" in outcome.out, outcome.err
        assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}
        assert hub.commits == commits
    assert hub.repos["me/merged"]["visibility"] == "public"
    assert any("/xorbs/" in path for path in hub.asked) is (store == "xet")


def test_a_network_that_fails_costs_one_warning_and_the_next_time_uploads(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# winner")
    hub.faults = {"/repos/create": 1}
    for endpoint in (hub.url, "http://127.0.0.1:9"):  # one that is down, and one where nobody listens
        outcome = upload(folder, endpoint, tmp_path)
        assert outcome.status == 0, outcome.err
        (line,) = outcome.err.splitlines()
        assert line.startswith("warning: the winner was not uploaded (")
        assert line.endswith("the same command again tries again")
    hub.faults = {"/preupload/": 2}
    outcome = upload(folder, hub.url, tmp_path)
    assert (outcome.status, outcome.err) == (0, "")  # the client tries again by itself, and says nothing of that
    assert hub.faults == {"/preupload/": 0}
    assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_can_never_be_uploaded_is_refused_before_any_work(
    finished: tuple[str, ...], hub: Hub, tmp_path: Path
) -> None:
    command = ["-m", "src.run", *finished, "name=other"]
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    outcome = started([*command, "publish.repo_id=me/my/model"], tmp_path, **environment)
    check_refused(outcome, "publish.repo_id is 'me/my/model'; expected OWNER/NAME")
    outcome = started([*command, "publish.repo_id=me/model"], tmp_path, HF_ENDPOINT=hub.url)
    check_refused(outcome, "there is no token for the hub; log in with `hf auth login`")
    outcome = started([*command, "publish.repo_id=me/model"], tmp_path, **environment, HF_HUB_OFFLINE="1")
    check_refused(outcome, "HF_HUB_OFFLINE is set")
    assert not (best_of(finished).parent.parent / "other").exists()
    assert hub.asked == []
