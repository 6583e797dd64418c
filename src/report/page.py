"""The page of a run: one file that needs no network, light or dark as the reader likes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

from src.pages.document import Section, document, drawings
from src.pages.figures import standalone
from src.report import (
    costs,
    kinship,
    kinship_gain,
    layer_change,
    overview,
    pedigree,
    predictions,
    progress,
    scores,
    settings,
    what_if,
)
from src.report.run_data import RunData, load
from src.runtime import files, plugins
from src.runtime.errors import UserError
from src.runtime.terminal import warn

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from src.tracking.sender import Sender

SECTIONS = (progress, predictions, pedigree, kinship, kinship_gain, layer_change, scores, what_if, costs)
NAME = "report.html"


def write(folder: Path, target: Path | None = None) -> Path:
    """Write the page of the run in `folder`, by default to that folder; return its path.

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
        OSError: the page cannot be written.
    """
    run, target = load(folder), target or folder / NAME
    files.write_text(target, render(run, sections(run)))
    return target


def present(folder: Path, tracker: Sender) -> None:
    """Send the figures of a run that has ended to its tracker, and write its page, which says that all is done.

    Nothing is raised: whatever fails here costs the page and a warning, not the run.
    """
    try:
        run = load(folder)
        found = sections(run)
        tracker.figures(figures(found))
        files.write_text(folder / NAME, render(run, found))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warn(f"the page failed ({reason}); python -m src.report {folder} tries again")


def figures(found: Sequence[Section]) -> dict[str, Figure]:
    """Return the figures of sections by name, as they are shown outside the page."""
    return {one.name: standalone(one.figure, one.title) for one in drawings(found)}


def sections(run: RunData) -> list[Section]:
    """Return the sections with figures, in order, the user's own last.

    Raises:
        UserError: one of the user's own cannot be imported, or is no section.
    """
    found = [made for module in SECTIONS if (made := module.section(run)) is not None]
    return [*found, *map(partial(_own, run), run.settings.get("figures") or ())]


def check(figures: Sequence[str]) -> None:
    """Refuse dotted paths at which there is no function that could make a section.

    Raises:
        UserError: the first such path.
    """
    for path in figures:
        plugins.load(path, FunctionType)


def _own(run: RunData, path: str) -> Section:
    found = plugins.load(path, FunctionType)(run)
    if not isinstance(found, Section):
        raise UserError(f"{path} returned a {type(found).__name__}; expected a Section (docs/extending.md)")
    return found


def render(run: RunData, found: Sequence[Section]) -> str:
    """Return the page's HTML: the opening, these sections, and the table of all models."""
    return document(
        f"{run.name}: {run.winner.name}",
        [
            *found,
            Section("models", "All models", run.omissions, tables=[overview.models(run)]),
            settings.section(run),
        ],
        heading=run.name,
        words=overview.words(run),
        tiles=overview.tiles(run),
        warnings=overview.warnings(run),
    )
