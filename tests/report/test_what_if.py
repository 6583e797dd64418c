"""The panel of sliders: what the page predicts is what the process predicts, in the numbers and in a browser."""

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from src.pages.document import Sliders
from src.report import page, what_if
from src.report.run_data import load
from src.strategy.recipes import Blocks
from src.study.tradeoff import front as fronts
from tests.family import FOUNDERS, TASKS
from tests.searched import search

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WEIGHTS = (
    (0.4, 0.4, 0.4, 0.4, 0.0),
    (0.1, -0.2, 0.7, 1.3, 0.9),
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (2.5, -0.5, 2.5, -0.5, 1.0),
)


@pytest.fixture(scope="module", params=[(), ("evaluate.share=0.5", "evaluate.holdout=0.25")], ids=["all", "a part"])
def made(request: pytest.FixtureRequest, family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(family, tmp_path_factory.mktemp("searched"), *request.param)


def everywhere(weights: Sequence[float], blocks: Blocks) -> np.ndarray:
    """The recipe [n, B] with these weights [n] in every block."""
    return np.array(weights)[:, None].repeat(len(blocks.names), 1)


def panel(folder: Path) -> Sliders:
    found = what_if.section(load(folder))
    assert found is not None
    assert found.sliders is not None
    return found.sliders


def unpacked(text: str, kind: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(*shape)


def answers(data: dict[str, Any], weights: Sequence[float]) -> np.ndarray:
    """The mean of each answer, from what the page is given alone."""
    inner, square = np.array(data["inner"]) @ weights, np.array(weights) @ data["gram"] @ weights
    far = np.maximum(square + np.array(data["squares"]) - 2 * inner, 0)
    between = data["linear"] * inner + (1 - data["linear"]) * np.exp(-far / (2 * data["reach"] ** 2))
    precision = unpacked(data["precision"], "<f8", len(data["shares"]), len(inner), len(inner))
    solved, ones = precision @ between, precision.sum(2)
    counts = solved + ((1 - solved.sum(1)) / ones.sum(1))[:, None] * ones  # [P, E]
    values = unpacked(data["answers"], "<f4", len(inner), -1)
    part = np.repeat(unpacked(data["part"], "<u2", -1), unpacked(data["choices"], "<u2", -1))
    return np.asarray(np.einsum("ae,ea->a", counts[part], values))


def test_the_page_is_given_what_predicts_the_answers(made: Path) -> None:
    data = dict(panel(made).data)
    problem = fronts.load(made).problem
    for weights in WEIGHTS:
        import torch

        recipe = torch.from_numpy(everywhere(weights, problem.blocks))
        mean = problem.process.predict(recipe[None])[0][0].numpy()
        assert np.abs(answers(data, weights) - mean).max() < 1e-4


def test_the_browser_predicts_what_the_process_does(made: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven with playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    front, written = fronts.load(made), page.write(made, tmp_path / "page.html")
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        opened.set_default_timeout(120_000)
        opened.on("pageerror", lambda error: requests.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(written.as_uri())
        for weights in WEIGHTS:
            found = opened.evaluate("(weights) => whatIf.predict(weights)", list(weights))
            (wanted,) = front.judged([""], everywhere(weights, front.problem.blocks)[None])
            for task, score, half in zip(TASKS, found["scores"], found["halves"], strict=True):
                assert score == pytest.approx(wanted.tasks[task].value, abs=1e-3)
                assert half == pytest.approx(wanted.tasks[task].high - wanted.tasks[task].value, abs=1e-3)
            assert found["average"] == pytest.approx(wanted.average.value, abs=1e-3)
            assert found["half"] == pytest.approx(wanted.average.high - wanted.average.value, abs=1e-3)
        before = opened.inner_text("#what-if-average")
        opened.get_by_role("slider", name="red").focus()
        for _ in range(40):
            opened.keyboard.press("ArrowRight")
        assert opened.inner_text("#what-if-average") != before
        documents = list(yaml.safe_load_all(opened.evaluate("document.getElementById('what-if-recipe').textContent")))
        opened.get_by_role("button", name="back to the winner").click()
        assert opened.inner_text("#what-if-average") == before
        assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert [one for one in requests if not one.startswith(("file:", "data:", "blob:"))] == []
    assert documents[-1]["merge_method"] == "task_arithmetic"
    assert {Path(one["model"]).name for one in documents[-1]["models"]} <= {*FOUNDERS, documents[0].get("name")}
    assert Path(documents[-1]["base_model"]).is_dir()


def test_sliders_start_at_the_winners_mean_weights(made: Path) -> None:
    front, found = fronts.load(made), panel(made)
    assert list(found.start) == [*FOUNDERS, f"{front.problem.directions[-1]}, wudi"]
    place = front.problem.models.index(front.winner.name)
    recipe = front.problem.process.recipes[place].numpy()
    for value, weights in zip(found.start.values(), recipe, strict=True):
        assert weights.min() - 0.01 <= value <= weights.max() + 0.01


def test_without_answers_or_room_the_page_says_so(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    monkeypatch.setattr(what_if, "LARGEST", 1000)
    large = what_if.section(load(folder))
    assert large is not None
    assert large.sliders is None
    assert "was left out" in large.words[0]
    (folder / "samples" / "red.npz").unlink()
    lost = what_if.section(load(folder))
    assert lost is not None
    assert "what red answered is not in" in lost.words[0]
    assert 'id="what-if"' not in page.write(folder).read_text()
