"""Runs that found the same best model: one model is one result, however many configurations led to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from src.study.compare.runs import Run


@dataclass(frozen=True)
class Winner:
    """A best model, and the runs that found it."""

    runs: tuple[Run, ...]
    """The one that needed the fewest evaluations first."""

    @property
    def first(self) -> Run:
        """The run that stands for all of them."""
        return self.runs[0]


def winners(runs: Sequence[Run]) -> list[Winner]:
    """Return the best models of these runs, the best first."""
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    found = [Winner(tuple(sorted(group, key=lambda run: run.reached.evaluations))) for group in groups.values()]
    return sorted(found, key=lambda one: (-one.first.average, one.first.reached.evaluations))


def _identity(run: Run) -> Hashable:
    """Return what two runs share that found one model and asked it the same."""
    content = run.state.models[run.best].fingerprint
    return (content or str(run.folder), run.average, run.holdout, run.settings["seed"])
