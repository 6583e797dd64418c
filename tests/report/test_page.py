"""The page of a run: what it says, and that it can be made of any run, whole or not."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from src.kinship import Grams
from src.pages.document import drawings
from src.pages.figures import plain, standalone
from src.report import overview
from src.report.__main__ import main
from src.report.layer_change import change
from src.report.page import render, sections
from src.report.pedigree import layout
from src.report.run_data import RunData, load
from tests.conftest import Command
from tests.report.runs import Run

FIGURES = (
    "best-by-generation",
    "best-by-evaluations",
    "pedigree",
    "kinship-by-average",
    "kinship-by-relatedness",
    "kinship-growth",
    "kinship-gain",
    "kinship-abs-gain",
    "change-attention",
    "change-mlp",
    "change-norms",
    "change-outside",
    "scores",
    "shares",
    "time",
    "evaluations",
)
OFF = ("stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "stop.generations=60")
TASKS = ("arithmetic", "rhyme", "code")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 models; nobody may change it."""
    run = Run(tmp_path_factory.mktemp("runs") / "ancestry", ("math", "chat", "verse"), TASKS, "strategy.k=3", *OFF)
    return run.write(24, fail=("2-1",))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def figures(run: RunData) -> dict[str, dict[str, Any]]:
    return {drawing.name: plain(drawing.figure) for drawing in drawings(sections(run))}


class Texts(HTMLParser):
    """The words of a page, and the elements it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_has_every_figure_and_each_is_one_that_plotly_takes(folder: Path) -> None:
    found = list(drawings(sections(load(folder))))
    assert [drawing.name for drawing in found] == list(FIGURES)
    for drawing in found:
        assert "var(--" not in standalone(drawing.figure, drawing.title).to_json()


def test_the_command_writes_one_file_and_says_where(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in copy.iterdir()}
    assert main([str(copy)]) == 0
    assert Path(capsys.readouterr().out.strip()) == copy / "report.html"
    assert {path.name for path in copy.iterdir()} - before == {"report.html"}
    elsewhere = copy.parent / "elsewhere.html"
    assert main([str(copy), "--out", str(elsewhere)]) == 0
    assert elsewhere.read_bytes() == (copy / "report.html").read_bytes()  # the same journal, the same page


def test_a_run_makes_its_own_page_at_its_end(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("stop.generations=2", "stop.unchanged=false", "stop.gain=null")
    assert outcome.status == 0, outcome.err
    assert "report.html" in outcome.out.replace("\n", "")
    page = (tmp_path / "outputs/run/report.html").read_text()
    run = load(tmp_path / "outputs/run")
    assert "the budget of 2 generations is spent" in page
    assert "waiting" in run.seconds[2]
    figure = figures(run)["best-by-evaluations"]
    assert f"{run.winner.average:.2f}" in json.dumps(figure)


def test_a_page_that_fails_costs_a_warning_not_the_run(evolve: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("src.report.page.sections", fail)
    outcome = evolve("stop.generations=1")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("warning: the page failed (no ink); python -m src.report") == 1


def test_a_run_killed_between_its_last_event_and_its_page_makes_it_at_the_next_start(
    evolve: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr("src.report.page.present", killed)
        assert evolve("stop.generations=1").status == 137
    folder = tmp_path / "outputs/run"
    journal = (folder / "journal.jsonl").read_text()
    assert '"stopped"' in journal
    assert not (folder / "report.html").exists()
    again = evolve("stop.generations=1")
    assert again.status == 0, again.err
    assert "finished already" in again.out
    assert (folder / "report.html").exists()
    assert (folder / "journal.jsonl").read_text() == journal


def test_the_overview_names_the_winner_its_gain_the_end_and_the_failures(folder: Path) -> None:
    run = load(folder)
    page = render(run, sections(run))
    words = " ".join(Texts(page).words)
    assert run.winner.name in words
    assert "It ended: the budget is spent." in words
    found = overview.gain(run)
    assert found is not None
    assert found.paired
    best = run.founders[0]
    assert "evaluate.holdout=0.5 keeps half of the samples for the end" in words
    assert found.points == pytest.approx((run.winner.average or 0) - (best.average or 0))
    assert f"{found.points:+.2f}" in words
    assert "1 model failed and left out: 2-1" in words
    assert "<b>no room</b> left" in words  # as words, not as markup


def test_with_a_holdout_its_score_is_the_number_to_quote(evolve: Command, tmp_path: Path) -> None:
    assert evolve("stop.generations=1", "evaluate.holdout=0.5", "merge=linear").status == 0
    run = load(tmp_path / "outputs/run")
    held = run.state.holdout[run.winner.name]
    page = render(run, sections(run))
    words = " ".join(Texts(page).words)
    assert "evaluate.holdout=0.5 keeps" not in words
    if run.winner.founder:
        assert "none of the merges beats it" in words
    else:
        assert f"The number to quote is {run.winner.name}'s {held.average:.2f} on the holdout" in words
    assert f"on the holdout: quote this {held.average:.2f}" in words
    assert "holdout" in [trace["name"] for trace in figures(run)["scores"]["data"]]
    assert "holdout" in json.dumps(figures(run)["time"])


def test_the_journal_alone_is_enough(copy: Path) -> None:
    (copy / "kinship.npz").unlink()
    shutil.rmtree(copy / "samples")
    run = load(copy)
    found = figures(run)
    assert set(FIGURES) - set(found) == {
        "change-attention",
        "change-mlp",
        "change-norms",
        "change-outside",
        "shares",
    }
    words = " ".join(Texts(render(run, sections(run))).words)
    assert "kinship.npz is not beside the journal" in words
    assert "intervals are wider than they need be" in words


def test_damaged_files_beside_the_journal_cost_their_figures_and_are_named(copy: Path) -> None:
    (copy / "kinship.npz").write_bytes(b"nothing")
    (copy / "samples/math.json").write_text("{")
    words = " ".join(overview.warnings(load(copy)))
    assert "kinship.npz: no stored kinship" in words
    assert "math.json cannot be read" in words


@pytest.mark.parametrize("lines", [7, 8, 12, 14, 17, 20])
def test_an_unfinished_run_has_a_page_too(copy: Path, lines: int) -> None:
    journal = copy / "journal.jsonl"
    whole = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole[:lines]) + whole[lines][:9])
    run = load(copy)
    page = render(run, sections(run))
    assert "It has not ended yet." in page
    assert '"pedigree":' in page


@pytest.mark.parametrize(
    ("founders", "models", "overrides"),
    [
        (("math", "chat"), 2, ("strategy.k=2",)),
        (("math", "chat", "verse"), 4, ("strategy.k=2",)),
        (("math", "chat", "verse", "law"), 9, ("strategy=one_shot",)),
        (("math", "chat", "verse"), 14, ("strategy=random_pairs",)),
        (("math", "chat", "verse"), 14, ("kinship.metric=euclidean",)),
        (tuple(f"founder-{i}" for i in range(12)), 20, ("strategy=greedy_topk",)),
    ],
)
def test_any_run_has_a_page(founders: tuple[str, ...], models: int, overrides: tuple[str, ...], tmp_path: Path) -> None:
    run = load(Run(tmp_path / "run", founders, TASKS, *overrides, *OFF).write(models))
    for drawing in drawings(sections(run)):
        standalone(drawing.figure, drawing.title)  # refuses what Plotly does not know
    assert run.winner.name in " ".join(Texts(render(run, sections(run))).words)


def test_names_that_a_user_gives_are_words_and_never_markup(tmp_path: Path) -> None:
    nasty = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "%{x}{{plotly}}")
    run = Run(tmp_path / "run", ("math", "chat", "verse"), nasty, *OFF)
    run.settings["founders"]["base"] = "/<b>models</b>"
    run = load(run.write(9))
    page = render(run, sections(run))
    plain = render(load(Run(tmp_path / "plain", ("math", "chat", "verse"), TASKS, *OFF).write(9)), [])
    elements = Texts(page).elements
    assert elements.count("script") == Texts(plain).elements.count("script") == 3
    assert "img" not in elements
    assert page.count("Plotly.react(") == plain.count("Plotly.react(")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert data is not None
    shown = json.loads(data[1])["figures"]
    assert shown["scores"]["data"][0]["y"][0] == "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
    assert "<script" not in json.dumps(shown)


def test_in_the_pedigree_nobody_stands_on_another_and_children_are_right_of_their_parents(folder: Path) -> None:
    run = load(folder)
    at = layout(run).models
    assert len(set(at.values())) == len(at) == len(run.population)
    for model in run.population:
        assert all(at[parent][0] < at[model.name][0] for parent in model.parents)


def test_change_is_the_distance_moved_in_shares_of_what_training_moved(evolve: Command, tmp_path: Path) -> None:
    assert evolve("stop.generations=1", "keep=all").status == 0
    run = load(tmp_path / "outputs/run")
    assert run.grams is not None
    model = run.population["1-1"]

    def weights(name: str) -> dict[str, np.ndarray]:
        source = run.state.sources.get(name, str(tmp_path / "outputs/run/models" / name))
        return {key: value.double().numpy() for key, value in load_file(Path(source) / "model.safetensors").items()}

    base, parent, child = weights("base"), weights(model.parents[0]), weights("1-1")
    keys = [key for key in base if ".layers.1." in key and "mlp" in key]
    moved = np.sqrt(sum(((child[key] - parent[key]) ** 2).sum() for key in keys))
    whole = np.sqrt(sum(((parent[key] - base[key]) ** 2).sum() for key in keys))
    assert change(run.grams, model)["mlp", 1] == pytest.approx(moved / whole, rel=1e-4)
    assert change(run.grams, model)["embeddings", "model.embed_tokens"] > 0


def test_a_copy_of_its_parent_has_not_changed(folder: Path) -> None:
    run = load(folder)
    assert run.grams is not None
    model = run.offspring[0]
    parent, child = (1 + run.grams.names.index(name) for name in (model.parents[0], model.name))
    order = list(range(len(run.grams.names) + 1))
    order[child] = parent
    twin = Grams(run.grams.names, run.grams.tensors, run.grams.gram[:, order][:, :, order], run.grams.sums)
    values = list(change(twin, model).values())
    assert values == pytest.approx([0] * len(values), abs=1e-6)


def test_what_is_no_run_costs_a_line(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is no run: there is no journal.jsonl in it; expected outputs/NAME" in capsys.readouterr().err
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:3]))
    assert main([str(tmp_path)]) == 2
    assert "nothing has been evaluated yet" in capsys.readouterr().err
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:9]).replace(b"math", b"mass"))
    assert main([str(tmp_path)]) == 2
    assert "damaged at line 1" in capsys.readouterr().err
    assert main([str(folder), "--out", str(tmp_path / "journal.jsonl/page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([str(folder), "--out", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err
