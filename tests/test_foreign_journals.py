"""Journals that somebody else wrote: what they name is a model of that run, or they are refused by their line."""

import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import rebuild
from src.compare import main as compare
from src.holdout import main as winners_curse
from src.journal import Journal, State, events_of, replay, run_state
from src.journal.events import check_fields, models_of
from src.report.__main__ import main as report
from src.runtime.errors import UserError
from src.runtime.names import OFFSPRING_NAME, SAFE_NAME
from tests.compare.journals import write_run
from tests.conftest import Command

Events = list[dict[str, Any]]


def write(folder: Path, told: Events) -> None:
    """A journal of these events, with checksums as they ought to be."""
    (folder / "journal.jsonl").unlink(missing_ok=True)
    journal = Journal(folder / "journal.jsonl")
    for event in told:
        journal.append(**event)
    journal.close()


def with_name(told: Events, old: str, new: str) -> Events:
    """The same events with another name for a model, wherever it stands."""
    return json.loads(json.dumps(told).replace(json.dumps(old), json.dumps(new)))  # type: ignore[no-any-return]


def files(folder: Path, *, but: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if not path.is_relative_to(but)}


def interrupted(told: Events) -> Events:
    """What the journal held when one of generation 1 had still to be scored."""
    last = max(number for number, event in enumerate(told) if event["event"] == "evaluated")
    return [event for event in told[:last] if event["event"] != "measured" or "1-1" not in event["models"]]


def test_no_name_of_an_offspring_leads_out_of_the_run(
    evolve: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("stop.generations=1", "keep=all")
    assert evolve(*command).status == 0
    run = tmp_path / "outputs/run"
    told = interrupted(events_of(run))
    last = next(event for event in told if event["event"] == "selected")["offspring"][-1]["name"]
    line = next(number for number, event in enumerate(told, 1) if event["event"] == "selected")
    for place in (tmp_path / "elsewhere", tmp_path / "outputs"):
        place.mkdir(exist_ok=True)
        (place / "evil.json").write_text("mine")
    before = files(tmp_path, but=run)
    for name in (
        str(tmp_path / "elsewhere/evil"),
        "../../evil",
        "..",
        f"{last}/../../../evil",
        f"{last}\n",
        "١-1",
        "red",
    ):
        write(run, with_name(told, last, name))
        outcome = evolve(*command)
        assert files(tmp_path, but=run) == before, name
        assert outcome.status == 2
        assert outcome.err.startswith(f"error: line {line} of the journal makes no sense to this version"), outcome.err
        assert len(outcome.err.splitlines()) == 1
        for main, arguments in ((rebuild.main, [name]), (report, []), (winners_curse, []), (compare, [str(run)])):
            assert main([str(run), *arguments]) == 2
            assert f"error: line {line} of the journal" in capsys.readouterr().err
        with pytest.raises(UserError, match=f"line {line} "):
            run_state(run)
        assert files(tmp_path, but=run) == before, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event": "founder", "model": "../x"}, "has the name '../x'"),
        ({"event": "founder", "model": "2-1"}, "which the run itself uses"),
        ({"event": "founder", "base": True}, "is called the base"),
        ({"event": "founder", "source": "a\0b"}, "founder.source is 'a\\x00b'"),
        ({"event": "selected", "generation": 7}, "2-1 is no name of generation 7"),
        ({"event": "merged", "model": "9-9"}, "merged has '9-9', which is no model of this run"),
        ({"event": "evaluated", "average": float("inf")}, "evaluated.average is inf; Input should be a finite number"),
        ({"event": "evaluated", "average": "99"}, "evaluated.average is '99'"),
        ({"event": "evaluated", "scores": {"task": None}}, "evaluated.scores.task is None"),
        ({"event": "evaluated", "samples": -1}, "evaluated.samples is -1"),
        ({"event": "measured", "kinship": {"pcc": [["A", "Z", 0.1]]}}, "measured has 'Z'"),
        ({"event": "measured", "kinship": {"pcc": [["A", "B"]]}}, "measured.kinship.pcc.0"),
        ({"event": "closed", "generation": 10**12}, "closed.generation is 1000000000000"),
        ({"event": "started", "settings": {}}, "started.settings.name is missing"),
    ],
)
def test_what_no_run_writes_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    told = events_of(write_run(tmp_path / "run", [50, 49, 51, 52]))
    at = max(number for number, event in enumerate(told) if event["event"] == change["event"])
    told[at] = {**told[at], **change}
    with pytest.raises(UserError) as refused:
        replay(told)
    assert str(refused.value).startswith(f"line {at + 1} of the journal")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": [{"model": "A"}, {"model": "/etc/passwd"}]}, "merged has '/etc/passwd', which is no model"),
        ({"models": [{"model": "A"}, {"model": "2-1"}]}, "2-1 is no model that was scored before generation 2"),
        ({"base_model": "../../x"}, "merged has '../../x', which is no model"),
        ({"models": []}, "merged.recipe.config.models is []"),
        ({"slices": [{"sources": [{"model": "/somewhere"}]}]}, "merged.recipe.config.slices"),
        ({"tokenizer": {"source": "/somewhere"}}, "merged.recipe.config.tokenizer"),
    ],
)
def test_a_recipe_names_nothing_but_elder_models_of_the_run(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    told = events_of(write_run(tmp_path / "run", [50, 49, 51, 52]))
    merged = [event for event in told if event["event"] == "merged"][-1]
    merged["recipe"] = {**merged["recipe"], "config": {**merged["recipe"]["config"], **change}, "donor": "A"}
    with pytest.raises(UserError) as refused:
        replay(told)
    assert words in str(refused.value)


def whole(folder: Path) -> Events:
    """A run in which everything happened that can happen."""
    told = events_of(write_run(folder, [50, 49, 51, 52], kinship=[0.5, 0.6], holdout=51.0))
    more: Events = [
        {
            "event": "held_out",
            "model": "A",
            "scores": {"task": 50},
            "average": 50,
            "stderr": 1,
            "samples": 9,
            "seconds": 1,
        },
        {"event": "holdout_failed", "model": "B", "reason": "evaluation: RuntimeError"},
        {"event": "compared", "side": "select", "winner": "2-1", "founder": "A", "difference": 2.0}
        | {"low": 1.0, "high": 3.0, "p": 0.5, "samples": 10},
        {
            "event": "selected",
            "generation": 3,
            "offspring": [{"name": "3-exp", "parents": ["A", "2-1"], "exploration": True}],
        },
        {"event": "failed", "model": "3-exp", "stage": "merge", "reason": "merge: RuntimeError"},
        {"event": "retried", "model": "3-exp"},
        {"event": "resumed", "settings": told[0]["settings"]},
    ]
    return [*told[:-1], *more, told[-1]]


PLACES = ["../../x", "/tmp/x", "", ".", "a/b", "2-1\n", "9-9", "1-1", "A", "base", "\0", "x" * 300]
VALUES = st.one_of(
    st.sampled_from([*PLACES, None, True, -1, 0, 1.5, 10**400, float("nan"), float("inf"), [], {}, [["A", "B", 1]]]),
    st.text(max_size=5),
)


def mutated(told: Events, draw: st.DataObject) -> Events:
    """The journal with one value or key replaced, or one event lost, told twice or told too early."""
    told = json.loads(json.dumps(told))
    at = draw.draw(st.integers(0, len(told) - 1), label="event")
    action = draw.draw(st.sampled_from(["change", "change", "change", "lose", "repeat", "move"]), label="action")
    if action == "change":
        change(told[at], draw)
    elif action == "repeat":
        told.insert(draw.draw(st.integers(0, len(told))), told[at])
    else:
        event = told.pop(at)
        if action == "move":
            told.insert(draw.draw(st.integers(0, len(told))), event)
    return told


def change(event: dict[str, Any], draw: st.DataObject) -> None:
    where: Any = event
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = draw.draw(st.sampled_from(keys), label="key")
        if isinstance(where[key], dict | list) and where[key] and draw.draw(st.booleans(), label="deeper"):
            where = where[key]
            continue
        action = draw.draw(st.sampled_from(["replace", "remove", "rename"]), label="what")
        if action == "replace" or not isinstance(where, dict):
            where[key] = draw.draw(VALUES, label="value")
        elif action == "rename":
            where[draw.draw(st.sampled_from(PLACES), label="name")] = where.pop(key)
        else:
            del where[key]
        return


def names_in(state: State) -> set[str]:
    """Everything in a state that becomes a file or a folder, or is looked up as one."""
    names = {model.name for model in state.population} | {p for model in state.population for p in model.parents}
    names |= {*state.measured, *state.holdout, *state.holdout_failures, *state.retried, *state.selected, *state.sources}
    names |= {name for pairs in state.kinship.values() for pair in pairs for name in pair}
    names |= {name for recipe in recipes_of(state).values() for name in (*models_of(recipe), recipe["donor"])}
    names |= {name for one in state.compared.values() for name in (one.winner, one.founder)}
    return names - {"base"}


def recipes_of(state: State) -> dict[str, Mapping[str, Any]]:
    return {model.name: model.recipe for model in state.population if model.recipe is not None}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Events:
    found = whole(tmp_path_factory.mktemp("journals") / "run")
    replay(found)
    return found


@settings(max_examples=1500)
@given(draw=st.data())
def test_a_mutated_journal_is_refused_or_all_its_names_are_safe(told: Events, draw: st.DataObject) -> None:
    changed = mutated(mutated(told, draw), draw) if draw.draw(st.booleans(), label="twice") else mutated(told, draw)
    try:
        state = replay(changed)
    except UserError:
        return
    known = {model.name for model in state.population}
    for name in names_in(state):
        assert SAFE_NAME.fullmatch(name) or OFFSPRING_NAME.fullmatch(name)
        assert name in known
    for name, recipe in recipes_of(state).items():
        assert all(state.population[one].generation < state.population[name].generation for one in models_of(recipe))
        assert recipe["donor"] in models_of(recipe) | {"base"}


def test_a_line_whose_checksum_was_made_to_fit_is_no_event_yet(tmp_path: Path) -> None:
    for body in (b"[]", b"{]", b'{"n":1,"event":"x","a":' + b"[" * 10**5, b'"n"', b'{"event":"x"}', b"\xff{}", b"{}"):
        (tmp_path / "journal.jsonl").write_bytes(body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body[:-1] + b"}"))
        with pytest.raises(UserError, match="damaged at line 1"):
            events_of(tmp_path)


def test_twenty_thousand_events_are_checked_in_the_time_it_takes_to_read_them(tmp_path: Path) -> None:
    """Replaying them takes what it takes; that every field is looked at must not be felt."""
    told = whole(tmp_path / "run")
    many = [event for event in told if event["event"] in {"evaluated", "measured", "merged", "selected"}]
    many = (many * (20_000 // len(many) + 1))[:20_000]
    began = time.process_time()
    for event in many:
        check_fields(event)
    assert time.process_time() - began < 2  # seen: 0.2 s
