"""The page in a real browser: from the disk, light and dark, on a laptop and on a phone, of few models and of many."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from src.compare import main as compare
from src.report.page import write
from src.report.run_data import load
from tests.compare.journals import write_run
from tests.report.runs import Run
from tests.report.test_page import FIGURES, OFF, TASKS

playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven with playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 120_000  # milliseconds: a busy machine is not a broken page
LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}


@dataclass
class Opened:
    """A page in a browser, and what it did."""

    page: "playwright.Page"
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> "Iterator[playwright.Browser]":
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of runs of 4, 24 and 200 models, with their pages."""
    folder = tmp_path_factory.mktemp("runs")
    founders = ("math", "chat", "verse", "law", "biology-and-medicine-of-all-kinds", "chess")
    made = {
        4: Run(folder / "4", founders[:3], TASKS, "strategy.k=2", *OFF).write(4),
        24: Run(folder / "24", founders[:3], TASKS, "strategy.k=3", *OFF).write(24),
        200: Run(folder / "200", founders, TASKS, "strategy=random_pairs", "strategy.k=5", *OFF).write(200),
    }
    for run in made.values():
        write(run)
    return made


def look(
    browser: "playwright.Browser",
    folder: Path,
    viewport: dict[str, int],
    scheme: str = "light",
    *,
    file: str = "report.html",
    figure: str = "evaluations",
) -> Opened:
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    opened = Opened(page)
    page.on("console", lambda said: opened.complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto((folder / file).as_uri())
    page.wait_for_selector(f"#{figure} .main-svg")
    return opened


@pytest.mark.parametrize(
    ("models", "viewport", "scheme"),
    [(4, LAPTOP, "light"), (4, PHONE, "dark"), (24, PHONE, "light"), (200, LAPTOP, "dark"), (200, PHONE, "light")],
)
def test_the_page_opens_without_network_or_complaint_and_fits(
    browser: "playwright.Browser", pages: dict[int, Path], models: int, viewport: dict[str, int], scheme: str
) -> None:
    opened = look(browser, pages[models], viewport, scheme)
    page = opened.page
    for button in page.locator("button[data-shows]").all():
        button.click()
        assert page.locator(f"#{button.get_attribute('data-shows')} .main-svg").first.is_visible()
    drawn = page.evaluate(
        "[...document.querySelectorAll('.canvas')].filter((c) => c.querySelector('.main-svg')).map((c) => c.id)"
    )
    correlated = {"kinship-gain", "kinship-abs-gain"}
    assert set(drawn) == set(FIGURES) - (correlated if models == 4 else set())
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tables = page.evaluate(
        "[...document.querySelectorAll('table')]"
        ".every((one) => one.parentElement.getBoundingClientRect().right <= innerWidth)"
    )
    assert tables
    page.close()


def test_light_and_dark_follow_the_reader_while_the_page_is_open(
    browser: "playwright.Browser", pages: dict[int, Path]
) -> None:
    opened = look(browser, pages[4], LAPTOP, "light")
    name = playwright.expect(opened.page.locator("#pedigree .textpoint text").first)
    name.to_have_css("fill", "rgb(28, 33, 39)", timeout=PATIENCE)
    opened.page.emulate_media(color_scheme="dark")
    name.to_have_css("fill", "rgb(232, 235, 239)", timeout=PATIENCE)
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize("models", [4, 200])
def test_pointing_at_a_model_in_the_pedigree_shows_its_parents(
    browser: "playwright.Browser", pages: dict[int, Path], models: int
) -> None:
    opened = look(browser, pages[models], LAPTOP)
    run = load(pages[models])
    page = opened.page
    page.locator("#pedigree").scroll_into_view_if_needed()
    winner = run.winner
    assert winner.parents
    spot = page.evaluate(
        """(name) => {
            const canvas = document.getElementById("pedigree");
            const told = (trace) => (trace.hovertext || []).findIndex((text) => text.startsWith(`<b>${name}</b>`));
            const curve = canvas.data.findIndex((trace) => told(trace) >= 0);
            const trace = canvas.data[curve], i = told(trace), box = canvas.getBoundingClientRect();
            const { xaxis, yaxis } = canvas._fullLayout;
            return [box.x + xaxis._offset + xaxis.d2p(trace.x[i]), box.y + yaxis._offset + yaxis.d2p(trace.y[i])];
        }""",
        winner.name,
    )
    page.mouse.move(spot[0] + 30, spot[1] + 30)
    page.mouse.move(*spot)
    told = playwright.expect(page.locator("#pedigree .hoverlayer"))
    for words in (winner.name, "parents: " + " × ".join(winner.parents), "slerp", f"{winner.average:.2f}"):
        told.to_contain_text(words, timeout=PATIENCE)
    page.close()


@pytest.mark.parametrize(("viewport", "scheme"), [(LAPTOP, "light"), (PHONE, "dark")])
def test_a_comparison_opens_without_network_or_complaint_and_fits(
    browser: "playwright.Browser", tmp_path: Path, viewport: dict[str, int], scheme: str
) -> None:
    for seed in range(3):
        write_run(tmp_path / f"runs/greedy-{seed}", [50, 49, 52 + seed], seed=seed)
        write_run(tmp_path / f"runs/random-{seed}", [50, 49, 51], seed=seed, strategy={"name": "random_pairs", "k": 2})
    assert compare([str(tmp_path / "runs"), "--html", str(tmp_path / "compare.html")]) == 0
    opened = look(browser, tmp_path, viewport, scheme, file="compare.html", figure="curves-gained")
    page = opened.page
    page.click("button[data-shows=curves]")
    assert page.locator("#curves .main-svg").first.is_visible()
    assert page.locator("table").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []
