"""One self-contained page on a run: no network, opens from a file, light or dark as the reader likes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.pages.look import Section, alone
from src.pages.shell import document, drawings, paragraphs, put
from src.report import ascent, change, costs, lead, pedigree, relation, relatives, scores
from src.report.story import Story, read
from src.runtime.terminal import warn

if TYPE_CHECKING:
    from src.tracking.trackers import Tracker

SECTIONS = (ascent, pedigree, relatives, relation, change, scores, costs)
NAME = "report.html"


def write(folder: Path, target: Path | None = None) -> Path:
    """Make the page of the run in `folder`, beside its place first; where it lies.

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
    """
    story = read(folder)
    return put(render(story, sections(story)), target or folder / NAME)


def present(folder: Path, tracker: Tracker, generation: int) -> None:
    """Make the page of a run that has ended, and send its figures to the tracker.

    A page is not worth a run: whatever fails here costs the page and a warning.
    """
    try:
        story = read(folder)
        found = sections(story)
        put(render(story, found), folder / NAME)
        for drawing in drawings(found):
            tracker.figure(drawing.name, alone(drawing), generation)
    except Exception as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        warn(f"the page failed ({told}); python -m src.report {folder} tries again")


def sections(story: Story) -> list[Section]:
    """All that the page shows, in order."""
    return [module.section(story) for module in SECTIONS]


def render(story: Story, found: Sequence[Section]) -> str:
    """The page's HTML. Whatever a user named is escaped."""
    everybody = Section("models", "All models", story.left_out, tables=[lead.models(story)])
    return document(f"{story.name}: {story.winner.name}", _opening(story), [*found, everybody])


def _opening(story: Story) -> str:
    shown = "".join(
        f'<div class="tile"><span>{html.escape(tile.title)}</span><b>{html.escape(tile.value)}</b>'
        f"<small>{html.escape(tile.note)}</small></div>"
        for tile in lead.tiles(story)
    )
    said = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in lead.warnings(story))
    return f'<h1>{html.escape(story.name)}</h1>{paragraphs(lead.words(story))}<div class="tiles">{shown}</div>{said}'
