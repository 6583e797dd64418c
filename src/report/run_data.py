"""What a page is made from: the journal of a run, and as far as it is there what lies in the folder with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from src.evaluation import holdout
from src.journal import Event, State, events_of, replay
from src.kinship import Grams, Metric, metric_of
from src.population import KinshipTable, Model, Population
from src.runtime.errors import UserError
from src.statistics.average import Samples
from src.strategy import Stop, Strategy, strategy_of

MAX_SHOWN = 300
"""Models up to which a page shows each of them (see `RunData.shown`)."""
HOLDOUT = -1
"""Stands for a generation in `RunData.seconds`: the scoring of what was held out."""


@dataclass(frozen=True, eq=False)
class RunData:
    """A run, finished or not. Nothing that the journal has is computed again."""

    name: str
    events: Sequence[Event]
    state: State
    grams: Grams | None
    """Inner products of the deltas; None without kinship.npz."""
    samples: Mapping[str, Samples]
    """Scores of single samples that steered the search, for every model whose file is there."""
    weights: Mapping[str, float] | None
    """Of the samples' tasks in the average; None where no file has them: then all weigh the same."""
    unreadable: Sequence[str]
    """Files that are there but cannot be read, and why."""
    folder: Path
    """Where it lies."""

    @property
    def population(self) -> Population:
        """All models, founders included."""
        return self.state.population

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's configuration."""
        return (self.state.started or {}).get("settings", {})

    @property
    def metric(self) -> Metric:
        """The run's kinship metric."""
        return metric_of(self.settings["kinship"]["metric"])

    @cached_property
    def kinship(self) -> KinshipTable:
        """Kinship of every measured pair, under the run's metric."""
        return self.state.table(self.metric.name, self.metric.larger_is_closer)

    @cached_property
    def strategy(self) -> Strategy:
        """The run's strategy, with its settings."""
        return strategy_of(self.settings["strategy"])

    @property
    def k(self) -> int | None:
        """How many models can be parents; None for a strategy without such a number."""
        return self.settings["strategy"].get("k")

    @property
    def threshold(self) -> float | None:
        """The mean kinship past which the k best count as saturated; None without such a rule."""
        return TypeAdapter(Stop).validate_python(self.settings["stop"]).threshold(self.kinship)

    @cached_property
    def winner(self) -> Model:
        """The best model."""
        return self.population.best(1)[0]

    @cached_property
    def founders(self) -> list[Model]:
        """The founders that were scored, best first."""
        return [model for model in self.population.best(len(self.population)) if model.founder]

    @cached_property
    def offspring(self) -> list[Model]:
        """The offspring that were scored, oldest first."""
        return [model for model in self.population.eligible() if not model.founder]

    @cached_property
    def lineage(self) -> list[Model]:
        """The winner and all its ancestors, oldest first."""
        return [*self.population.ancestors(self.winner.name), self.winner]

    @cached_property
    def line(self) -> frozenset[str]:
        """Their names."""
        return frozenset(model.name for model in self.lineage)

    @cached_property
    def shown(self) -> list[Model]:
        """The models that are shown one by one, oldest first: all, or MAX_SHOWN of them.

        These are the winner's lineage, as far back as half the room for it goes, then the best of the others.
        """
        if len(self.population) <= MAX_SHOWN:
            return list(self.population)
        kept = {model.name for model in self.lineage[-MAX_SHOWN // 2 :]}
        others = [model.name for model in self.population.best(MAX_SHOWN) if model.name not in kept]
        kept.update(others[: MAX_SHOWN - len(kept)])
        return [model for model in self.population if model.name in kept]

    @property
    def omissions(self) -> list[str]:
        """What to tell of `shown`; empty where all models are."""
        if len(self.shown) == len(self.population):
            return []
        return [
            f"Of {len(self.population):,} models {len(self.shown)} are shown: the winner's line, as far back as there "
            "is room, and the best of the others. The rest is left out here; the journal has it."
        ]

    @cached_property
    def top_kinship(self) -> dict[int, float]:
        """Mean kinship of the k best at the end of each generation; NaN where a pair was never measured."""
        tops = self.population.tops(self.k) if self.k else []
        return {
            generation: self.kinship.mean([model.name for model in top])
            for generation, top in enumerate(tops[: self.state.closed + 1])
        }

    @cached_property
    def seconds(self) -> dict[int, dict[str, float]]:
        """Where the time of each generation went: `merged`, `measured`, `learned`, `evaluated`, `waiting` where known.

        Several processes' work is added up. 0 is the founders' generation, and HOLDOUT what was scored at the end.
        """
        processes = (self.state.started or {}).get("machine", {}).get("processes", 1)
        spent: dict[int, dict[str, float]] = {0: defaultdict(float)}
        generation = 0
        for event in self.events:
            kind = event["event"]
            if kind == "selected":
                generation = event["generation"]
                spent.setdefault(generation, defaultdict(float))
            elif kind in ("merged", "measured", "evaluated", "learned", "differentiated"):
                # A lesson is told of before the generation whose candidate comes of it.
                part = "learned" if kind == "differentiated" else kind
                spent.setdefault(event.get("generation", generation), defaultdict(float))[part] += event["seconds"]
            elif kind == "held_out":
                spent.setdefault(HOLDOUT, defaultdict(float))["evaluated"] += event["seconds"]
            elif kind == "closed" and "seconds" in event:
                worked = sum(spent[generation].values())
                spent[generation]["waiting"] = max(0.0, processes * event["seconds"] - worked)
        return spent

    @cached_property
    def evaluations(self) -> list[Event]:
        """The events of evaluations, in order."""
        return [event for event in self.events if event["event"] == "evaluated"]


def load(folder: Path) -> RunData:
    """Read a run's folder.

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
    """
    events = events_of(folder)
    state = replay(events)
    if state.started is None or not state.population.eligible():
        raise UserError(f"{folder}: nothing has been evaluated yet; there is nothing to show")
    unreadable: list[str] = []
    grams = _load_grams(folder / "kinship.npz", state, unreadable)
    samples, weights = _load_samples(folder, state, unreadable)
    return RunData(folder.resolve().name, events, state, grams, samples, weights, unreadable, folder)


def _load_grams(path: Path, state: State, unreadable: list[str]) -> Grams | None:
    try:
        stored = Grams.load(path)
    except FileNotFoundError:
        return None
    except UserError as error:
        unreadable.append(str(error))
        return None
    return stored.of([name for name in stored.names if name in state.measured])


def _load_samples(
    folder: Path, state: State, unreadable: list[str]
) -> tuple[dict[str, Samples], Mapping[str, float] | None]:
    found: dict[str, Samples] = {}
    weights: Mapping[str, float] | None = None
    for model in state.population:
        try:
            kept = holdout.samples(folder, state, model.name, "select")
            found[model.name], weights = kept.samples, kept.weights
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            unreadable.append(f"{model.name}.json cannot be read ({str(error).splitlines()[0]})")
    return found, weights
