"""The winner handed on: a card that the hub reads, a recipe that mergekit alone runs, an upload to a (fake) hub."""

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from src import licence
from src.licence import Licence
from src.report.metadata import is_hub_name, metadata
from tests.conftest import Command
from tests.family import FOUNDERS
from tests.test_mistakes import check_refused
from tests.test_run import ALL_RULES_OFF
from tests.test_survival import state

TOKEN = "hf_" + "x" * 34
YOUNG = ("evaluate.holdout=0.5", "stop.generations=3", *ALL_RULES_OFF)
"""With three founders, an offspring of a later generation wins."""


@pytest.fixture
def copy(family: Path, tmp_path: Path) -> Path:
    """A pico family that a test may change."""
    return Path(shutil.copytree(family, tmp_path / "family"))


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_s_metadata_is_what_the_hub_reads(evolve: Command, copy: Path, tmp_path: Path) -> None:
    for name, declared in (("red", "mit"), ("green", "apache-2.0"), ("blue", "cc0-1.0")):
        (copy / name / "README.md").write_text(f"---\nlicense: {declared}\ntags: [tiny]\n---\n# A founder\n")
    assert evolve(*YOUNG, founders=FOUNDERS[:3], at=copy).status == 0
    best, found = tmp_path / "outputs/run/best", state(tmp_path / "outputs")
    winner = found.population.best(1)[0]
    assert winner.parents
    card = ModelCard.load(best / "README.md")
    assert card.data.library_name == "transformers"
    assert set(card.data.tags) == {"merge", "mergekit", "kinmerge"}
    assert (card.data.license, card.data.license_name) == ("other", "apache-2.0-and-cc0-1.0")
    assert "- green: apache-2.0\n- blue: cc0-1.0" in (best / card.data.license_link).read_text()
    assert card.data.model_name == winner.name
    results = {(result.dataset_type, result.dataset_split): result for result in card.data.eval_results or []}
    assert set(results) == {(task, side) for task in winner.scores for side in ("holdout", "selection")}
    for task, score in winner.scores.items():
        assert results[task, "selection"].metric_value == round(score, 2)
        assert results[task, "holdout"].metric_value == round(found.holdout[winner.name].scores[task], 2)
        assert results[task, "holdout"].metric_type == "acc"
    assert "base_model" not in metadata_load(best / "README.md")  # folders of this machine are no models of the hub's
    assert f"| blue | {copy / 'blue'} |" in card.text
    heads = [line for line in card.text.splitlines() if line.startswith("| task |")]
    assert len(heads) == 2
    for compared in found.compared.values():
        assert all(f"| {compared.founder} |" in head and head.endswith(f"| {winner.name} |") for head in heads)
    line = [model.name for model in found.population.ancestors(winner.name) if model.founder]
    sources = {name: f"someone/{name}-7b" for name in line} | {"base": "someone/base-7b"}
    sources[line[0]] = "/data/models/mine"
    read = yaml.safe_load(metadata(found, winner.name, sources, {}))
    assert read["base_model"] == [f"someone/{name}-7b" for name in line[1:]]
    assert read["base_model_relation"] == "merge"
    assert "license" not in read


@pytest.mark.parametrize(
    ("source", "hub"),
    [("someone/model-7b", True), ("/data/model", False), ("./a/b", False), ("model", False), ("a/b/c", False)],
)
def test_what_is_a_name_on_the_hub(source: str, hub: bool) -> None:
    assert is_hub_name(source) is hub


APACHE, MIT = Licence("apache-2.0"), Licence("mit")
OWN = Licence("other", "seven-b", "https://huggingface.co/a/b/blob/main/LICENSE")


@pytest.mark.parametrize(
    ("licences", "fields", "words"),
    [
        ({"a": MIT, "b": MIT}, {"license": "mit"}, "As all its founders: mit."),
        ({"a": OWN, "b": OWN}, {"license": "other", "license_name": "seven-b", "license_link": OWN.link}, "seven-b"),
        (
            {"a": MIT, "b": APACHE},
            {"license": "other", "license_name": "apache-2.0-and-mit", "license_link": "LICENSE.md"},
            "differ; whoever uses this model is bound by each of them:\n\n- a: mit\n- b: apache-2.0",
        ),
        ({"a": MIT, "b": None}, {}, "Not known, since that of b is not:\n\n- a: mit\n- b: not known"),
        ({"a": None, "b": None}, {}, "Not known: no founder's card names one"),
    ],
)
def test_the_licence_of_a_merge(licences: dict[str, Licence | None], fields: dict[str, str], words: str) -> None:
    assert licence.of_merge(licences) == fields
    assert words in licence.words(licences)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: MIT\n---\n", MIT),
        ("---\nlicense: [mit]\n---\n", MIT),
        ("---\nlicense: other\nlicense_name: seven-b\nlicense_link: LICENSE\n---\n", OWN),
        ("---\ntags: [a]\n---\n", None),
        ("# no metadata", None),
        ("---\nlicense: [mit\n---\n", None),
        ("---\nlicense: {a: b}\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_that_a_card_declares(tmp_path: Path, card: str | None, expected: Licence | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence.of(tmp_path, "a/b") == expected


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["slerp", pytest.param("dare_ties", marks=pytest.mark.slow)])
def test_mergekit_alone_makes_the_winner_again_to_the_same_bytes(evolve: Command, tmp_path: Path, merge: str) -> None:
    """With the very command that the card gives."""
    assert evolve(f"merge={merge}", *YOUNG, founders=FOUNDERS[:3]).status == 0
    best = tmp_path / "outputs/run/best"
    winner = state(tmp_path / "outputs").population.best(1)[0]
    assert winner.generation > 1
    (command,) = re.findall(r"^    (mergekit-multi .*)$", (best / "README.md").read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    shutil.copy(best / "recipe.yaml", tmp_path / "recipe.yaml")
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / winner.name / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()


# --- the upload ------------------------------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """The few endpoints of the hub's API that making a repository and uploading small files takes."""

    files: dict[str, bytes]
    repos: dict[str, dict[str, object]]
    asked: list[str]
    down = False

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if self.down:
            self._send(503, {"error": "down for maintenance"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "no token"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.repos[f"{asked.get('organization', 'me')}/{asked['name']}"] = asked
            self._send(200, {"url": f"http://{self.headers['Host']}/me/{asked['name']}"})
        elif self.path.endswith("/preupload/main"):
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes, "commitOid": "0" * 40})
        elif "/commit/main" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/me/merged/commit/{'1' * 40}"
            self._send(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})
        elif self.path.startswith("/api/models/me/merged"):
            self._send(200, {"id": "me/merged", "sha": "0" * 40, "siblings": [], "private": True, "tags": []})
        elif self.path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        else:
            self._send(404, {"error": self.path})

    def _send(self, status: int, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    handler = type("Hub", (FakeHub,), {"files": {}, "repos": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield handler
        server.shutdown()


def test_the_winner_is_uploaded_when_asked_and_the_token_is_written_nowhere(
    evolve: Command, tmp_path: Path, hub: type[FakeHub]
) -> None:
    assert evolve("stop.generations=1").status == 0
    assert hub.asked == []
    outcome = evolve("stop.generations=1", "publish.repo_id=me/merged")
    assert outcome.status == 0, outcome.err
    assert "uploaded to http://127.0.0.1" in outcome.out, outcome.err
    assert hub.repos["me/merged"]["visibility"] == "private"
    best = tmp_path / "outputs/run/best"
    assert hub.files == {file.name: file.read_bytes() for file in best.iterdir()}
    everything = b"".join(file.read_bytes() for file in (tmp_path / "outputs").rglob("*") if file.is_file())
    assert TOKEN.encode() not in everything
    assert TOKEN not in outcome.out + outcome.err


def test_an_upload_that_fails_costs_a_line_and_the_same_command_again_uploads(
    evolve: Command, tmp_path: Path, hub: type[FakeHub]
) -> None:
    command = ("stop.generations=1", "publish.repo_id=me/merged", "publish.private=false")
    hub.down = True
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("warning: the winner was not uploaded")]
    assert line.endswith("the same command again tries again")
    assert state(tmp_path / "outputs").stopped
    hub.down = False
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert "finished already" in outcome.out
    assert "uploaded to" in outcome.out
    assert "model.safetensors" in hub.files


def test_what_can_never_be_uploaded_is_refused_before_any_work(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: type[FakeHub]
) -> None:
    check_refused(evolve("publish.repo_id=me/my/model"), "publish.repo_id is 'me/my/model'; expected OWNER/NAME")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    check_refused(evolve("publish.repo_id=me/model"), "there is no token for the hub; log in with `hf auth login`")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_refused(evolve("publish.repo_id=me/model"), "HF_HUB_OFFLINE is set")
    assert not (tmp_path / "outputs").exists()
    assert hub.asked == []
