"""Where a run comes from is in its journal, its page and its card; no key is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.journal import events_of, replay
from src.report import page
from src.runtime import provenance
from src.runtime.secrets import masked, masked_command, masked_settings
from tests.conftest import Command
from tests.report.runs import Run

ONE = ("strategy=one_shot", "merge=linear")


def told(outputs: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(outputs / "run") if event["event"] in {"started", "resumed"}]


def test_journal_page_and_card_say_when_by_what_and_with_which_code(evolve: Command, tmp_path: Path) -> None:
    assert evolve(*ONE, "evaluate.model_args.token=of-somebody").status == 0
    (started,) = told(tmp_path / "outputs")
    about = started["provenance"]
    assert about["date"][:2] == "20"
    assert about["date"].endswith("+00:00")
    assert about["command"].startswith("python -m src.run strategy=kinship_topk founders=local ")
    assert "strategy=one_shot merge=linear 'evaluate.model_args.token=***'" in about["command"]
    assert about["python"] == sys.version.split()[0]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=provenance.ROOT, capture_output=True, text=True)
    assert about["commit"] == (head.stdout.strip() or None)
    page = (tmp_path / "outputs/run/report.html").read_text()
    card = (tmp_path / "outputs/run/best/README.md").read_text()
    for text in (about["date"], about["python"], started["versions"]["mergekit"], *filter(None, [about["commit"]])):
        assert text in page
        assert text in card
    assert "evaluate.holdout" in page  # the whole configuration
    assert "model_args.token=***" in card
    for file in (tmp_path / "outputs").rglob("*"):
        assert not file.is_file() or b"of-somebody" not in file.read_bytes(), file


def test_other_code_is_told_where_a_run_goes_on_and_the_same_code_is_not(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.evolution import Evolution

    def interrupted(self: Evolution) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(Evolution, "evaluate_holdout", interrupted)
        for _ in range(2):  # the second goes on with the same code: nothing new to tell
            with pytest.raises(RuntimeError, match="interrupted"):
                evolve(*ONE)
    assert len(told(tmp_path / "outputs")) == 1
    monkeypatch.setattr(provenance, "checkout", lambda root: ("0" * 40, False))
    assert evolve(*ONE).status == 0
    first, second = told(tmp_path / "outputs")
    assert second["provenance"]["commit"] == "0" * 40
    assert first["settings"] == second["settings"]
    card = (tmp_path / "outputs/run/best/README.md").read_text()
    assert f"gone on with | {second['provenance']['date']}, {'0' * 40}" in card
    before = (tmp_path / "outputs/run/journal.jsonl").read_bytes()
    monkeypatch.setattr(provenance, "checkout", lambda root: ("1" * 40, False))
    assert evolve(*ONE).status == 0  # it has ended: nothing is made by that commit
    assert (tmp_path / "outputs/run/journal.jsonl").read_bytes() == before


def test_a_journal_without_provenance_is_read_and_shown(tmp_path: Path) -> None:
    folder = Run(tmp_path / "run", ("red", "green", "blue"), ("a", "b")).write(8)
    assert replay(events_of(folder)).starts == []
    text = page.write(folder).read_text()
    assert "The journal is of an older version" in text
    assert "strategy.explore.pool" in text


def test_another_token_is_no_other_configuration(evolve: Command, tmp_path: Path) -> None:
    assert evolve(*ONE, "evaluate.model_args.token=first-token").status == 0
    again = evolve(*ONE, "evaluate.model_args.token=second-token")
    assert again.status == 0, again.err
    other = evolve(*ONE, "evaluate.model_args.revision=x")
    assert other.status == 2
    assert "first-token" not in other.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("evaluate.model_args.token=abc", "evaluate.model_args.token=***"),
        ("+evaluate.model_args={api_key: 'a b', x: 1}", "+evaluate.model_args={api_key: ***, x: 1}"),
        ('{"secret": "a,b"}', '{"secret": ***}'),
        ("hydra.sweeper.storage=postgresql://me:pass@host/db", "hydra.sweeper.storage=postgresql://me:***@host/db"),
        ("founders.base=hf_" + "a" * 34, "founders.base=***"),
        ("aws_secret_access_key=x", "aws_secret_access_key=***"),
        ("evaluate.model_args.pad_token=x", "evaluate.model_args.pad_token=x"),
        ("evaluate.gen_kwargs.max_tokens=5", "evaluate.gen_kwargs.max_tokens=5"),
        ("founders.base=/home/hf_models/a:b@c", "founders.base=/home/hf_models/a:b@c"),
        ("merge.tokenizer_source=auto", "merge.tokenizer_source=auto"),
        ("{key: strategy.k, low: 2}", "{key: strategy.k, low: 2}"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


def test_a_key_of_the_environment_is_masked_wherever_the_command_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert masked_command(["+x=" + "0" * 40, "y=0"]) == ["+x=***", "y=0"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab:/ ="),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["k", "token", "x"]), inner),
    )
)
def test_masked_settings_keep_their_shape_and_masking_twice_changes_nothing(value: Any) -> None:
    once = masked_settings({"x": value})
    assert masked_settings(once) == once
    if "token" not in json.dumps(value):
        assert once == {"x": value}


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert provenance.checkout(tmp_path) == (None, None)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert provenance.checkout(tmp_path) == (None, None)  # no commit yet
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "-C", str(tmp_path), "add", "file"], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *author, "commit", "-qm", "first"], check=True)
    commit, dirty = provenance.checkout(tmp_path)
    assert (len(commit or ""), dirty) == (40, False)
    (tmp_path / "file").write_text("2")
    assert provenance.checkout(tmp_path) == (commit, True)
