"""A run as its folder tells of it: the journal, and what lies beside it as far as it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from src.evaluation import holdout
from src.journal import Event, State, events_of, replay
from src.kinship import METRICS, Grams, Metric
from src.population import KinshipTable, Model, Population
from src.runtime.errors import UserError
from src.statistics.average import Samples
from src.strategy import STRATEGIES, Strategy

SHOWN = 300
"""Models up to which a page shows every one; of more, those that tell most (see `Story.shown`)."""
HOLDOUT = -1
"""Stands for a generation where time is told: the scoring of what was held out."""


@dataclass(frozen=True)
class Cost:
    """Where the time of one generation went, in seconds; several processes' work is added up."""

    merged: float = 0.0
    measured: float = 0.0
    evaluated: float = 0.0
    whole: float | None = None
    """From the generation's begin to its end by the clock; None where the journal does not say."""

    @property
    def waiting(self) -> float | None:
        """What is neither merging nor measuring nor evaluating; None where it is not known."""
        if self.whole is None:
            return None
        return max(0.0, self.whole - self.merged - self.measured - self.evaluated)


@dataclass(frozen=True, eq=False)
class Story:
    """All that a page is made from. Nothing here computes what the journal says already."""

    name: str
    events: Sequence[Event]
    state: State
    grams: Grams | None = None
    """Inner products of the deltas; None where kinship.npz is gone."""
    samples: Mapping[str, Samples] = ()  # type: ignore[assignment]
    """Scores of single samples that steered the search, of every model whose file is there."""
    weights: Mapping[str, float] | None = None
    """Of the samples' tasks in the average; None where no file says so: then all weigh the same."""
    troubles: tuple[str, ...] = ()
    """What was found beside the journal but could not be read."""

    @property
    def population(self) -> Population:
        """Everyone, founders included."""
        return self.state.population

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the run was asked to do."""
        return (self.state.started or {}).get("settings", {})

    @property
    def metric(self) -> Metric:
        """The kinship that the run went by."""
        return METRICS[self.settings["kinship"]["metric"]]

    @cached_property
    def kinship(self) -> KinshipTable:
        """Kinship of every measured pair, under the run's metric."""
        return self.state.table(self.metric.name, self.metric.larger_is_closer)

    @cached_property
    def strategy(self) -> Strategy:
        """The run's strategy, with its settings."""
        settings = self.settings["strategy"]
        return TypeAdapter(STRATEGIES[settings["name"]]).validate_python(settings)

    @property
    def k(self) -> int | None:
        """How many are best enough to be parents; None for a strategy that does not count."""
        return self.settings["strategy"].get("k")

    @cached_property
    def winner(self) -> Model:
        """The best of all."""
        return self.population.best(1)[0]

    @cached_property
    def founders(self) -> list[Model]:
        """The founders that were scored, best first."""
        everyone = self.population.best(len(self.population))
        return [model for model in everyone if model.founder]

    @cached_property
    def offspring(self) -> list[Model]:
        """The offspring that were scored, oldest first."""
        return [model for model in self.population.eligible() if not model.founder]

    @cached_property
    def line(self) -> list[Model]:
        """The winner and all it descends from, oldest first."""
        return [*self.population.ancestors(self.winner.name), self.winner]

    @cached_property
    def shown(self) -> list[Model]:
        """The models that are shown one by one, oldest first: all, or SHOWN of them.

        These are the winner's line, as far back as half the room for it goes, then the best of the others.
        """
        if len(self.population) <= SHOWN:
            return list(self.population)
        ranked = self.population.best(SHOWN)
        kept = {model.name for model in self.line[-SHOWN // 2 :]}
        kept |= {model.name for model in [one for one in ranked if one.name not in kept][: SHOWN - len(kept)]}
        return [model for model in self.population if model.name in kept]

    @property
    def left_out(self) -> list[str]:
        """What a reader has to know of `shown`; empty where everybody is."""
        if len(self.shown) == len(self.population):
            return []
        return [
            f"Of {len(self.population):,} models {len(self.shown)} are shown: the winner's line, as far back as there "
            "is room, and the best of the others. The rest is left out here; the journal has it."
        ]

    @cached_property
    def top_kinship(self) -> dict[int, float]:
        """Mean kinship within S_k when each generation closed; NaN where a pair of it was never measured."""
        tops = self.population.tops(self.k) if self.k else []
        return {
            generation: self.kinship.mean([model.name for model in top])
            for generation, top in enumerate(tops[: self.state.closed + 1])
        }

    @cached_property
    def costs(self) -> dict[int, Cost]:
        """By generation; 0 is the founders', and HOLDOUT what was scored at the end."""
        spent: dict[int, dict[str, float]] = {0: {}}
        now = 0
        for event in self.events:
            kind = event["event"]
            if kind == "selected":
                now = event["generation"]
                spent[now] = {}
            elif kind in ("merged", "measured", "evaluated"):
                spent[now][kind] = spent[now].get(kind, 0.0) + event["seconds"]
            elif kind == "held_out":
                held = spent.setdefault(HOLDOUT, {})
                held["evaluated"] = held.get("evaluated", 0.0) + event["seconds"]
            elif kind == "closed" and "seconds" in event:
                spent[now]["whole"] = event["seconds"] * (self.state.started or {}).get("machine", {}).get(
                    "processes", 1
                )
        return {generation: Cost(**parts) for generation, parts in spent.items()}

    @cached_property
    def evaluations(self) -> list[Event]:
        """The events of evaluations, in order."""
        return [event for event in self.events if event["event"] == "evaluated"]


def read(folder: Path) -> Story:
    """The story in a run's folder.

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
    """
    events = events_of(folder)
    state = replay(events)
    if state.started is None or not state.population.eligible():
        raise UserError(f"{folder}: nothing has been evaluated yet; there is nothing to show")
    troubles: list[str] = []
    grams = _grams(folder / "kinship.npz", state.measured, troubles)
    samples, weights = _samples(folder, state, troubles)
    return Story(folder.resolve().name, events, state, grams, samples, weights, tuple(troubles))


def _grams(path: Path, measured: Iterable[str], troubles: list[str]) -> Grams | None:
    try:
        stored = Grams.load(path)
    except FileNotFoundError:
        return None
    except UserError as error:
        troubles.append(str(error))
        return None
    known = set(measured)
    return stored.of([name for name in stored.names if name in known])


def _samples(folder: Path, state: State, troubles: list[str]) -> tuple[dict[str, Samples], Mapping[str, float] | None]:
    found: dict[str, Samples] = {}
    weights: Mapping[str, float] | None = None
    for model in state.population:
        try:
            kept = holdout.samples(folder, state, model.name, "select")
            found[model.name], weights = kept.samples, kept.weights
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            troubles.append(f"{model.name}.json cannot be read ({str(error).splitlines()[0]})")
    return found, weights
