"""A run as far as a comparison needs it, and how runs are found."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from src.config import flat
from src.evaluation.holdout import Scored, samples
from src.journal import Event, State, events_of, replay
from src.kinship.metrics import metric_of
from src.population import KinshipTable
from src.runtime.errors import UserError
from src.runtime.names import BASE

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Point:
    """Progress of a run after one more evaluation."""

    evaluations: int
    samples: int
    best: float
    """The best average so far, in points."""


@dataclass(frozen=True)
class Run:
    """A run, read from its journal."""

    name: str
    """Its folder, as short as tells it from the other runs."""
    folder: Path
    settings: Mapping[str, Any]
    """Flat: by dotted key."""
    state: State
    curve: tuple[Point, ...]
    """From the first model that was evaluated on."""
    best: str
    """Name of the best model."""
    holdout: float | None
    """The best model's average on what did not steer the search, in points; None where nothing was held out."""

    @property
    def average(self) -> float:
        """The best average, in points."""
        return self.curve[-1].best

    @property
    def founder(self) -> float:
        """The best founder's average, in points."""
        return max(model.average for model in self.state.population if model.founder and model.average is not None)

    @property
    def reached(self) -> Point:
        """The point at which the best average was reached."""
        return next(point for point in self.curve if point.best == self.average)

    @property
    def evaluations(self) -> int:
        """Evaluations made in all."""
        return self.curve[-1].evaluations

    @property
    def seconds(self) -> float:
        """Spent merging, measuring and evaluating."""
        return sum(self.state.seconds.values())

    @property
    def stopped(self) -> str:
        """The stop reason."""
        return self.state.stopped or "has not ended yet"

    @property
    def kinship(self) -> KinshipTable:
        """Kinship under the run's own metric."""
        metric = str(self.settings["kinship.metric"])
        return self.state.table(metric, metric_of(metric).larger_is_closer)

    def samples(self, side: str) -> Scored | None:
        """Return the best model's score on every sample of a side; None if unknown."""
        try:
            return samples(self.folder, self.state, self.best, side)
        except (OSError, ValueError):  # not held out, deleted, cut off, or changed
            return None


def find(arguments: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Find the runs in these folders (a run's own, or one of runs), patterns and Optuna storages.

    Returns:
        The runs, and a remark on each that was left out.

    Raises:
        UserError: nothing is there, a journal is damaged, or fewer than two runs have evaluated a model.
    """
    places = {argument: _folders(argument) for argument in arguments}
    barren = [
        f"{argument} has no run (a journal.jsonl) and is left out" for argument, found in places.items() if not found
    ]
    if len(barren) == len(places):
        raise UserError(f"{', '.join(places)}: no run lies there (a run's folder has a journal.jsonl)")
    folders = list(dict.fromkeys(folder for found in places.values() for folder in found))
    names = _names(folders)
    read = {name: _read(name, folder) for name, folder in zip(names, folders, strict=True)}
    runs = [run for run in read.values() if run is not None]
    left_out = [f"{name} has evaluated nothing yet and is left out" for name, run in read.items() if run is None]
    if len(runs) < 2:
        known = f"only {runs[0].folder}" if runs else "none"
        raise UserError("; ".join([f"a comparison needs two runs that have evaluated a model; found {known}", *barren]))
    return runs, [*barren, *left_out]


def _folders(argument: str) -> list[Path]:
    if "://" in argument:
        return _in_storage(argument)
    matching = [argument] if Path(argument).exists() else sorted(glob.glob(argument))  # noqa: PTH207 (absolute patterns)
    if not matching:
        raise UserError(f"{argument}: there is no such folder; expected a run (outputs/NAME), or a folder of runs")
    return [folder for path in matching for folder in _below(Path(path))]


def _below(path: Path) -> list[Path]:
    if path.suffix == ".db":
        return _in_storage(f"sqlite:///{path}")
    if (path / JOURNAL).is_file():
        return [path.resolve()]
    return sorted((journal.parent.resolve() for journal in path.rglob(JOURNAL)), key=_by_number)


def _in_storage(storage: str) -> list[Path]:
    from src.study.sweep.storage import folders

    return [folder for folder in folders(storage) if (folder / JOURNAL).is_file()]


def _by_number(folder: Path) -> tuple[str, int, str]:
    return str(folder.parent), int(folder.name) if folder.name.isdigit() else -1, folder.name


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the fewest last parts of the paths that distinguish them all."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def _read(name: str, folder: Path) -> Run | None:
    events = events_of(folder)
    state = replay(events)
    if state.started is None or not state.population.eligible():
        return None
    best = state.population.best(1)[0].name
    held = state.holdout[best].average if best in state.holdout else None
    return Run(name, folder, flat(state.started["settings"]), state, _curve(events), best, held)


def _curve(events: Sequence[Event]) -> tuple[Point, ...]:
    evaluated = [event for event in events if event["event"] == "evaluated"]
    samples = accumulate(event["samples"] for event in evaluated)
    found = [-math.inf if event["model"] == BASE else event["average"] for event in evaluated]
    known = next(average for average in found if average > -math.inf)  # the base costs an evaluation, and is no result
    best = (max(known, average) for average in accumulate(found, max))
    return tuple(map(Point, range(1, len(evaluated) + 1), samples, best))
