"""What a run does with an event: into the journal, into the state, to the tracker, and on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from src.config import Track
from src.journal import CutOff, Follower, Journal, State
from src.runtime import progress, terminal
from src.tracking import sender
from src.tracking.sender import Sender


class Recorder:
    """Records the events of a run; every process has one, and only the main one's journal is on disk."""

    def __init__(self, journal: Journal | Follower, state: State, folder: Path, track: Track, *, main: bool) -> None:
        """Record in this journal, and keep the state that it adds up to.

        Args:
            journal: of the run, or what another process has of it.
            state: what its events add up to by now.
            folder: of the run.
            track: settings of the tracker.
            main: whether this process tracks.
        """
        self._journal, self._state, self._folder, self._track, self._main = journal, state, folder, track, main
        self._console = terminal.console()

    @cached_property
    def tracker(self) -> Sender:
        """What sends the journal's figures to a tracker; connected on first use."""
        return sender.start(self._track, self._folder, self._journal.events, main=self._main)

    def write(self, event: str, **fields: Any) -> None:
        """Write an event, and apply it to the state."""
        self._state.apply(self._journal.append(event, **fields))

    def record(self, event: str, **fields: Any) -> None:
        """Write an event, apply it, and have the tracker follow."""
        self.write(event, **fields)
        self.tracker.catch_up()

    def record_all(
        self,
        models: Sequence[str],
        found: Iterable[Sequence[tuple[str, dict[str, Any]]]],
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        """Record the events and fields that were found of each model as they come, say so, and call `finished`."""
        for model, events in zip(models, found, strict=True):
            for event, fields in events:
                self.record(event, model=model, **fields)
                if event == "failed":
                    self.say(f"{model} failed and is left out: {fields['reason']}")
                elif event == "holdout_failed":
                    self.say(f"{model} has no holdout score: {fields['reason']}")
                elif event in {"evaluated", "held_out"}:
                    where = " on the holdout" if event == "held_out" else ""
                    progress.note(f"{model}: {fields['average']:.2f}{where} in {fields['seconds']:.1f} s")
                    for task, cut in fields.get("cut_off", {}).items():
                        progress.note(f"{model}: {CutOff(**cut).words(task)}{where}")
            finished()

    def say(self, text: str) -> None:
        """Print a line, whatever it contains."""
        self._console.print(text, highlight=False)

    def show(self, what: Any, **how: Any) -> None:
        """Print a table, or lines that may be long."""
        self._console.print(what, **how)

    def close(self) -> None:
        """Flush the tracker, if it was ever connected, and release the journal."""
        if "tracker" in self.__dict__:
            self.tracker.finish()
        self._journal.close()
