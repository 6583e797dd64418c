"""Sends a tracker what a journal tells: live, line by line, and all at once where lines were written without it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Track
from src.journal import Event, State
from src.pages.text import plural
from src.runtime.terminal import warn
from src.tracking import trackers
from src.tracking.about import about
from src.tracking.calls import Calls
from src.tracking.private import first_line
from src.tracking.trackers import Tracker

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Sender:
    """Knows how much of a journal a tracker was sent."""

    def __init__(self, tracker: Tracker, events: Sequence[Event], folder: Path | None = None) -> None:
        """Send to this tracker what these events tell; more may be appended to them at any time.

        A failure of the tracker costs the run in `folder` its figures and a warning; without a folder it is raised.
        """
        self._tracker, self._events, self._folder = tracker, events, folder
        self._run = Calls()
        self._told = 0
        self._sent: Counter[str] = Counter()

    def catch_up(self) -> None:
        """Send what follows from the events that are new since the last time; at first, from all of them."""
        if type(self._tracker) is Tracker:
            return
        for event in self._events[self._told :]:
            self._told += 1
            if (call := self._run.add(event)) is not None:
                self._tell("send", call)
                self._sent.update({"row": 1, "table": len(call.tables)})

    def figures(self, figures: Mapping[str, Figure]) -> None:
        """Send interactive figures of the run as it stands."""
        self._tell("figures", figures, self._told + 1)

    def model(self, folder: Path) -> None:
        """Send where the winner lies, if it does."""
        if type(self._tracker) is not Tracker and folder.is_dir():
            self._tell("model", folder, _of_winner(self._run.state))
            self._sent["model"] += 1

    def finish(self) -> None:
        """Flush and close."""
        self._tell("finish")

    @property
    def words(self) -> str:
        """What was sent, and where."""
        return f"{', '.join(plural(count, noun) for noun, count in self._sent.items())} to {self._tracker.place}"

    def _tell(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:
            if self._folder is None:
                raise
            warn(
                f"tracking failed and goes on no further ({first_line(error)}); the journal has every figure: "
                f"python -m src.track {os.path.relpath(self._folder)} sends them later"
            )
            self._tracker = Tracker()


def start(
    settings: Track,
    folder: Path,
    events: Sequence[Event],
    *,
    main: bool = True,
    guarded: bool = True,
    anew: bool = False,
) -> Sender:
    """Return what sends a run to the tracker that the settings ask for; to none in all processes but the main one.

    Args:
        settings: which tracker, its project and mode.
        folder: of the run.
        events: of its journal, the first at least.
        main: whether this is the main process.
        guarded: whether a failure of the tracker costs a warning instead of being raised.
        anew: as another run on W&B, beside the one that is there.
    """
    if not main or trackers.is_off(settings):
        return Sender(Tracker(), events)
    run = about(events, folder)
    if anew:
        run = replace(run, id=f"{run.id}-{int(time.time())}")
    kind = {"wandb": trackers.WandB, "tensorboard": trackers.TensorBoard}[settings.tracker]
    return Sender(kind(settings, folder, run), events, folder if guarded else None)


def _of_winner(state: State) -> dict[str, Any]:
    winner = state.population.best(1)[0]
    held_out = state.holdout.get(winner.name)
    return {
        "winner": winner.name,
        "parents": " × ".join(winner.parents),
        "average": winner.average,
        "stderr": winner.stderr,
        "holdout": None if held_out is None else held_out.average,
        "fingerprint": winner.fingerprint,
    }
