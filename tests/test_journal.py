"""The journal: what is written is read back; what is damaged is noticed, cut off or refused with its line number."""

import contextlib
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.journal import Journal, parse, replay
from src.runtime.errors import UserError
from tests.conftest import Command

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["model", "scores", "seconds", "crc", 'x,"crc":"']), JSON, max_size=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals") / "journal.jsonl"


def write(path: Path, entries: list[dict[str, Any]]) -> bytes:
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for entry in entries:
        journal.append("note", **entry)
    journal.close()
    return path.read_bytes()


@given(entries=st.lists(FIELDS, max_size=5))
def test_what_is_appended_is_read_back(place: Path, entries: list[dict[str, Any]]) -> None:
    write(place, entries)
    assert parse(place)[0] == [{"event": "note", **entry} for entry in entries]


@settings(max_examples=500)
@given(entries=st.lists(FIELDS, min_size=1, max_size=4), cut=st.floats(0, 1))
def test_a_torn_tail_is_cut_off_before_the_next_append(place: Path, entries: list[dict[str, Any]], cut: float) -> None:
    data = write(place, entries)
    torn = data[: int(len(data) * cut)]
    place.write_bytes(torn)
    journal = Journal(place)
    whole = torn.count(b"\n")
    assert journal.events == [{"event": "note", **entry} for entry in entries[:whole]]
    journal.append("after")
    journal.close()
    assert parse(place)[0][whole:] == [{"event": "after"}]


@settings(max_examples=1000)
@given(entries=st.lists(FIELDS, min_size=2, max_size=4), at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed_or_lies_in_the_tail(
    place: Path, entries: list[dict[str, Any]], at: float, flip: int
) -> None:
    data = bytearray(write(place, entries))
    position = int(len(data) * at)
    data[position] ^= flip
    place.write_bytes(bytes(data))
    expected = [{"event": "note", **entry} for entry in entries]
    if position == len(data) - 1:  # the last line's end: it looks torn
        assert parse(place)[0] == expected[:-1]
    else:
        with pytest.raises(UserError, match="damaged at line"):
            parse(place)


@settings(max_examples=500)
@given(data=st.binary(max_size=300))
def test_no_file_brings_the_reader_down(place: Path, data: bytes) -> None:
    place.write_bytes(data)
    with contextlib.suppress(UserError):
        assert parse(place)[0] == []


KINDS = ["started", "founder", "selected", "merged", "measured", "evaluated", "failed", "closed", "resumed", "stopped"]
KEYS = ["model", "source", "base", "fingerprint", "generation", "offspring", "scores", "average", "reason", "settings"]


@settings(max_examples=500)
@given(
    made_up=st.lists(
        st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5)), max_size=5
    )
)
def test_no_sequence_of_events_brings_the_replay_down(made_up: list[tuple[str, dict[str, Any]]]) -> None:
    """Events are refused by the line of the first that makes no sense, or lead to the same state however they come."""
    told = [{"event": kind, **fields} for kind, fields in made_up]
    try:
        state = replay(told)
    except UserError as error:
        found = re.match(r"line (\d+) of the journal makes no sense to this version", str(error))
        assert found
        line = int(found[1])
        replay(told[: line - 1])
        with pytest.raises(UserError, match=f"line {line} "):
            replay(told[:line])
    else:
        assert replay(told[1:], replay(told[:1])) == state
        names = [model.name for model in state.population]
        assert all(names.count(name) == 1 for name in names)


def test_a_damaged_line_in_the_middle_is_named(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=1")
    journal = tmp_path / "outputs/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b'"average":', b'"average":9')
    journal.write_bytes(b"".join(lines))
    outcome = evolve("stop.generations=1")
    assert outcome.status == 2
    assert "journal.jsonl is damaged at line 8" in outcome.err
    assert "head -n 7" in outcome.err


def test_a_file_of_something_else_is_no_journal_of_which_lines_could_be_kept(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"event": "theirs"}\n{"event": "theirs"}\n')
    with pytest.raises(UserError, match=r"is no journal of a run.*or take another folder\.$"):
        parse(tmp_path / "journal.jsonl")


def test_a_missing_line_is_noticed(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=1")
    journal = tmp_path / "outputs/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4] + lines[5:]))
    assert "is damaged at line 5" in evolve("stop.generations=1").err


def test_an_empty_journal_is_a_new_run(evolve: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs/run").mkdir(parents=True)
    (tmp_path / "outputs/run/journal.jsonl").write_bytes(b"")
    assert evolve("stop.generations=1").status == 0


def test_a_journal_of_a_newer_version_is_refused(evolve: Command, tmp_path: Path) -> None:
    body = json.dumps({"n": 1, "event": "started", "version": 99}, separators=(",", ":")).encode()
    (tmp_path / "outputs/run").mkdir(parents=True)
    (tmp_path / "outputs/run/journal.jsonl").write_bytes(body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body))
    outcome = evolve("stop.generations=1")
    assert outcome.status == 2
    assert "was written by a newer kinmerge (journal version 99" in outcome.err


def test_a_deleted_run_folder_is_a_new_run(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=1")
    first = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    shutil.rmtree(tmp_path / "outputs/run")
    evolve("stop.generations=1")
    second = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert first.population == second.population
