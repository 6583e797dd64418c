"""What docs/extending.md promises: its files run as they stand, by its commands, under the same contracts."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mergekit.merge_methods import registry

from src import rebuild
from src.journal import events_of, replay
from src.kinship.__main__ import main as kinship
from src.kinship.metrics import METRICS
from src.report.__main__ import main as report
from src.runtime import plugins
from tests.conftest import Command
from tests.docs import EXTENDING, FILES
from tests.test_mistakes import check_refused


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of the docs, where a user would have them: outside the project."""
    for name, text in FILES.items():
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    known = {name: method for name, method in registry._METHODS.items() if "halfway" not in name}
    monkeypatch.setattr(registry, "_METHODS", known)  # mergekit has no way to forget one
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def command(word: str) -> list[str]:
    """The settings of the docs' command in which this word is."""
    (line,) = [line for line in EXTENDING.splitlines() if line.startswith("    python -m src.run") and word in line]
    return shlex.split(line)[3:]


def finished(outcome_folder: Path) -> list[str]:
    """The offspring of a run that has come to its end."""
    state = replay(events_of(outcome_folder))
    assert state.stopped is not None
    return [model.name for model in state.population.eligible() if model.parents]


SHORT = ("stop.generations=2",)


def test_every_file_of_the_docs_is_tried_here() -> None:
    assert sorted(FILES) == [f"mine/{name}.py" for name in ("evaluator", "figure", "method", "metric", "strategy")]


def test_a_strategy(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*command("mine.strategy"), *SHORT)
    assert outcome.status == 0, outcome.err
    assert finished(tmp_path / "outputs/run")
    again = evolve(*command("mine.strategy"), *SHORT)
    assert "has finished already" in again.out


def test_a_strategy_s_settings_are_checked_like_all_others(evolve: Command) -> None:
    check_refused(evolve(*command("mine.strategy"), "strategy.k=many"), "strategy (mine.strategy.BestAndOthers): k is")


def test_a_kinship_metric(evolve: Command, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = evolve(*command("kinship.metric"), *SHORT)
    assert outcome.status == 0, outcome.err
    state = replay(events_of(tmp_path / "outputs/run"))
    values = state.kinship["mine.metric.overlap"].values()
    assert values
    assert all(-1 <= value <= 1 for value in values)
    cosines = state.kinship["cosine"]
    assert (
        np.sign(list(values)).tolist()
        == np.sign([cosines[pair] for pair in state.kinship["mine.metric.overlap"]]).tolist()
    )
    assert (tmp_path / "outputs/run/report.html").exists()
    folders = [str(family / name) for name in ("red", "green")]
    assert kinship([*folders, "--base", str(family / "base"), "--metric", "mine.metric.overlap", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("treatment", [(), ("merge.treatment.lines.beta=0.5", "merge.treatment.svc=1")])
def test_a_merge_method(treatment: tuple[str, ...], evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*command("merge.method"), *treatment, *SHORT, "keep=all")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "outputs/run"
    name = finished(run)[0]
    before = (run / "models" / name / "model.safetensors").read_bytes()
    for file in (run / "models" / name).iterdir():
        file.unlink()
    (run / "models" / name).rmdir()
    assert rebuild.main([str(run), name]) == 0  # what the run has named is trusted within this process
    assert (run / "models" / name / "model.safetensors").read_bytes() == before


def test_an_evaluator(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*command("evaluate.evaluator"), *SHORT)
    assert outcome.status == 0, outcome.err
    assert finished(tmp_path / "outputs/run")


def test_a_figure(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*command("figures"), *SHORT)
    assert outcome.status == 0, outcome.err
    assert "How often each founder was a parent" in (tmp_path / "outputs/run/report.html").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("strategy.name=mine.nothing.X", "mine.nothing.X could not be imported (ModuleNotFoundError"),
        ("strategy.name=mine.metric.overlap", "mine.metric.overlap is no subclass of Strategy"),
        ("kinship.metric=mine.metric.nothing", "mine.metric.nothing could not be imported (AttributeError"),
        ("kinship.metric=mine.strategy.BestAndOthers", "mine.strategy.BestAndOthers is a ABCMeta; expected a Metric"),
        ("merge.method=mine.metric.overlap", "merge.method is 'mine.metric.overlap'; mergekit has no such method"),
        ("evaluate.evaluator=mine.strategy.BestAndOthers", "is no subclass of BaseEvaluator"),
        ("figures=[mine.nothing.x]", "mine.nothing.x could not be imported"),
    ],
)
def test_a_path_that_leads_to_nothing_costs_a_line(evolve: Command, tmp_path: Path, given: str, words: str) -> None:
    check_refused(evolve(given), words)
    assert not (tmp_path / "outputs").exists()


def test_what_a_journal_names_is_imported_only_if_the_user_says_so(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evolve(*command("mine.figure"), *command("kinship.metric"), *SHORT).status == 0
    run = str(tmp_path / "outputs/run")
    for forget in ("mine.metric.overlap", "mine.figure.parents"):
        METRICS.pop(forget, None)
    monkeypatch.setattr(plugins, "_trusted", set())
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    assert report([run]) == 2
    assert "importing it would execute its code; if you trust it: --trust mine." in capsys.readouterr().err
    assert not [name for name in sys.modules if name.partition(".")[0] == "mine"]
    assert report([run, "--trust", "mine.metric.overlap", "--trust", "mine.figure.parents"]) == 0
