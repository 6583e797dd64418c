"""Tables in a browser: sorted by a heading, saved as CSV, and readable on a phone."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.pages.document import Section, document
from src.pages.tables import Table

playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven with playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
ROWS = (
    ("beta", "+1.20", "70 %", "< 0.001"),
    ("alpha, the first", "-10.00", "7 %", "0.250"),
    ("gamma", "", "100 %", "0.040"),
    ("=1+1", "9.00", "8 %", "0.500"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[playwright.Page]":
    table = Table(("name", "gain", "kept", "p"), ROWS)
    text = document("tables", [Section("models", "All models", [], tables=[table])], heading="tables")
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(text)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        found = browser.new_page(viewport={"width": 390, "height": 844}, accept_downloads=True)
        found.goto(file.as_uri())
        yield found
        browser.close()


def column(page: "playwright.Page", place: int) -> list[str]:
    return [text.strip() for text in page.locator(f"tbody tr td:nth-child({place})").all_inner_texts()]


def test_a_heading_sorts_by_number_or_by_word_and_the_unknown_comes_last(page: "playwright.Page") -> None:
    page.click("th:nth-child(2) button")
    assert column(page, 2) == ["9.00", "+1.20", "-10.00", ""]
    assert page.get_attribute("th:nth-child(2)", "aria-sort") == "descending"
    page.click("th:nth-child(2) button")
    assert column(page, 2) == ["-10.00", "+1.20", "9.00", ""]
    page.click("th:nth-child(3) button")
    assert column(page, 3) == ["100 %", "70 %", "8 %", "7 %"]
    page.click("th:nth-child(1) button")
    assert column(page, 1) == ["=1+1", "alpha, the first", "beta", "gamma"]
    assert page.get_attribute("th:nth-child(3)", "aria-sort") is None
    page.click("th:nth-child(4) button")
    page.click("th:nth-child(4) button")
    assert column(page, 4) == ["< 0.001", "0.040", "0.250", "0.500"]


def test_it_is_saved_as_a_spreadsheet_reads_it(page: "playwright.Page", tmp_path: Path) -> None:
    with page.expect_download() as waiting:
        page.click("button.save")
    assert waiting.value.suggested_filename == "models.csv"
    waiting.value.save_as(tmp_path / "models.csv")
    heading, *rows = csv.reader((tmp_path / "models.csv").open())
    assert heading == ["name", "gain", "kept", "p"]
    told = {re.sub("^'", "", row[0]): tuple(row[1:]) for row in rows}
    assert told == {row[0]: row[1:] for row in ROWS}
    assert "'=1+1" in {row[0] for row in rows}  # no spreadsheet computes it


def test_it_fits_a_phone(page: "playwright.Page") -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
