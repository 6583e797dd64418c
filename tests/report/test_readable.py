"""What a reader must be able to tell apart, and to find in the first words."""

import html
import itertools
import json
import re
from pathlib import Path

import pytest

from src.pages.document import drawings
from src.pages.figures import plain
from src.report import layer_change, predictions, settings
from src.report.overview import models
from src.report.page import sections, write
from src.report.points import beside
from src.report.run_data import load
from tests.conftest import Command
from tests.report.runs import Run
from tests.report.test_page import OFF, TASKS
from tests.searched import search


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose winner is a merge of merges; nobody may change it."""
    run = Run(tmp_path_factory.mktemp("runs") / "long", ("math", "chat", "verse"), TASKS, "strategy.k=4", *OFF)
    return run.write(40)


def test_points_of_one_generation_do_not_hide_each_other() -> None:
    x = [0.0] * 5 + [1.0] * 3
    y = [50.0, 50.0, 50.1, 49.9, 60.0, 50.0, 50.0, 50.0]
    moved = beside(x, y, width=0.1, height=1.0)
    for (a, first), (b, second) in itertools.combinations(list(zip(moved, y, strict=True)), 2):
        assert abs(a - b) > 0.099 or abs(first - second) >= 1.0
    assert moved[4] == 0.0  # nobody is near it
    assert all(abs(after - before) <= 0.45 for after, before in zip(moved, x, strict=True))
    crowd = beside([0.0] * 200, [50.0] * 200, width=0.1, height=1.0)
    assert max(map(abs, crowd)) <= 0.45  # a column keeps to itself, however many there are


def test_lines_of_changes_have_names_and_looks_of_their_own(folder: Path) -> None:
    looks = [(colour, dash, symbol) for colour, dash, symbol in layer_change.STYLES]
    assert len(looks) >= layer_change.LINES
    for first, second in itertools.combinations(looks, 2):
        assert sum(a == b for a, b in zip(first, second, strict=True)) <= 1
    run = load(folder)
    drawn = [plain(drawing.figure) for drawing in drawings([layer_change.section(run)])]
    assert drawn
    for figure in drawn:
        names = [trace["name"] for trace in figure["data"]]
        assert len(set(names)) == len(names)
        assert any(name.startswith(run.winner.name) for name in names)


def test_the_first_words_name_the_winner_what_it_keeps_of_each_skill_and_the_cost(
    evolve: Command, tmp_path: Path
) -> None:
    assert evolve("stop.generations=2", "strategy=greedy_topk", "evaluate.holdout=0.5").status == 0
    text = write(tmp_path / "outputs/run").read_text()
    run = load(tmp_path / "outputs/run")
    header = html.unescape(re.sub(r"<[^>]+>", " ", text[text.index("<header>") : text.index("</header>")]))
    assert run.winner.name in header
    assert run.winner.parents, "the family's best model is a merge"
    for task in run.winner.scores:
        assert re.search(rf"{task} \d+%", header), task
    assert f"{run.state.evaluations} " in header[header.index("evaluations it cost") :]


def test_what_a_search_promised_is_held_against_what_was_found(family: Path, tmp_path: Path) -> None:
    run = load(search(family, tmp_path))
    found = predictions.section(run)
    assert found is not None
    (figure,) = (plain(drawing.figure) for drawing in drawings([found]))
    promised, scores = figure["data"]
    known = [model for model in run.offspring if model.predicted is not None]
    assert len(known) >= 2
    assert scores["y"] == pytest.approx([run.population.found(model) for model in known], abs=1e-3)
    tops = [value + more for value, more in zip(promised["y"], promised["error_y"]["array"], strict=True)]
    assert tops == pytest.approx([model.predicted.high for model in known if model.predicted], abs=1e-3)
    within = sum(
        model.predicted.low <= run.population.found(model) <= model.predicted.high for model in known if model.predicted
    )
    assert f"Of {len(known)} candidates {within} (" in found.words[0]


def test_a_strategy_that_predicts_nothing_has_no_such_section(folder: Path) -> None:
    assert "predictions" not in {section.name for section in sections(load(folder))}


def test_the_settings_are_all_there_and_later_starts_say_what_changed(evolve: Command, tmp_path: Path) -> None:
    assert evolve("stop.generations=1").status == 0
    assert evolve("stop.generations=2", "resume=force").status == 0
    run = load(tmp_path / "outputs/run")
    _, later, configuration = settings.section(run).tables
    (row,) = later.rows
    assert row[0] == "2"
    rows = dict(configuration.rows)  # type: ignore[arg-type]
    assert rows["strategy.name"] == run.settings["strategy"]["name"]
    assert rows["stop.generations"] == json.dumps(run.settings["stop"]["generations"])
    page = write(tmp_path / "outputs/run").read_text()
    assert 'id="about-settings"' in page


def test_a_page_of_an_ordinary_run_is_under_two_megabytes(folder: Path, tmp_path: Path) -> None:
    made = write(folder, tmp_path / "page.html")
    assert made.stat().st_size < 2e6
    run = load(folder)
    assert len(models(run).rows) == len(run.population) > 30
