"""Calls: what a tracker is sent of a run, from its journal alone, so that it is the same whenever it is sent.

A call follows from one line of the journal and has that line's number as its step: a run that goes on, and one that is
sent again later, send the very same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from src.journal import Event, State
from src.pages.tables import Table
from src.population import KinshipTable, normalised_average, worst
from src.runtime.names import BASE
from src.tracking import summary, table

EVALUATIONS, GENERATION = "cost/evaluations", "generation"
BY_EVALUATION = ("candidate/", "scores/", "stderr/", "cost/")
"""Beginnings of the names of numbers that are drawn over EVALUATIONS; all others are, over GENERATION."""
BY_GENERATION = ("average/", "objective/", "gain/", "kinship/", "skills/", "cache/", "learning/", "seconds/")


@dataclass(frozen=True)
class Call:
    """What follows from one event."""

    step: int
    """The journal's line, from 1 on."""
    axis: str
    """EVALUATIONS or GENERATION: that of `numbers` over which the others are drawn."""
    numbers: Mapping[str, float]
    """Never words, never NaN."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    summary: Mapping[str, float | str] = field(default_factory=dict)
    """The run's result; a name has numbers or words in every run, never now these and now those."""


def axis(name: str) -> str:
    """Return over what a number of this name is drawn."""
    return EVALUATIONS if name.startswith(BY_EVALUATION) else GENERATION


class Calls:
    """A run as far as its events were added.

    Attributes:
        state: what they add up to.
    """

    def __init__(self) -> None:
        self.state = State()
        self._step = 0
        self._best = -math.inf
        self._failed: set[str] = set()
        self._stderrs: dict[str, Mapping[str, float]] = {}
        self._merging: dict[str, float] = {}

    def add(self, event: Event) -> Call | None:
        """Advance by one event; return what follows from it, if anything does."""
        self.state.apply(event)
        self._step += 1
        kind = event["event"]
        if kind == "merged":
            self._merging[event["model"]] = event["seconds"]
        elif kind == "evaluated":
            found = {} if event["model"] == BASE else self._candidate(event)  # what a search is told of the base
            return self._call(EVALUATIONS, {**self._costs(), **found})
        elif kind == "retried":
            self._failed.discard(event["model"])
        elif kind == "failed":
            self._failed.add(event["model"])
            return self._call(EVALUATIONS, self._costs())
        elif kind == "closed":
            return self._call(GENERATION, self._generation(), {"models": self._models()})
        elif kind == "stopped":
            numbers = {GENERATION: float(self.state.population.generation)}
            return self._call(GENERATION, numbers, self._results(), summary.summary(self.state))
        return None

    def _call(self, axis: str, numbers: Mapping[str, float], *more: Any) -> Call:
        return Call(self._step, axis, {name: value for name, value in numbers.items() if math.isfinite(value)}, *more)

    @property
    def _settings(self) -> Mapping[str, Any]:
        return dict((self.state.started or {})["settings"])

    @property
    def _kinship(self) -> KinshipTable:
        return self.state.table(self._settings["kinship"]["metric"], larger_is_closer=True)

    def _costs(self) -> dict[str, float]:
        spent = self.state.spent
        return {
            EVALUATIONS: spent.evaluations,
            "cost/samples": self.state.samples,
            "cost/hours": spent.hours,
            "cost/failures": len(self._failed),
        }

    def _candidate(self, event: Event) -> dict[str, float]:
        """Return the numbers of a model that was evaluated, founders included."""
        model, average = self.state.models[event["model"]], event["average"]
        self._best = max(self._best, average)
        self._stderrs[model.name] = event.get("stderrs", {})
        parents = [self.state.models[name].average or 0.0 for name in model.parents]
        return {
            "candidate/average": average,
            "candidate/stderr": event["stderr"],
            "candidate/gain": average - fmean(parents) if parents else math.nan,
            "candidate/kinship": self._kinship.mean(model.parents),
            "candidate/generation": model.generation,
            "candidate/exploration": float(model.exploration),
            "candidate/seconds": event["seconds"] + self._merging.get(model.name, 0.0),
            "candidate/best_so_far": self._best,
            **{f"scores/{task}": score for task, score in event["scores"].items()},
            **{f"stderr/{task}": error for task, error in self._stderrs[model.name].items()},
        }

    def _generation(self) -> dict[str, float]:
        """Return the numbers of the generation that has closed; NaN where there is none (the founders' gain).

        Averages and gains are in points (×100), kinship in the metric's own unit, costs and seconds since the run
        began; skills are those that the best model keeps on what steered; under cache/, the share (0 to 1) that was
        known from other runs; under learning/, what was learned by gradient: the loss, and weights in the mean over
        blocks.
        """
        state, population, kinship = self.state, self.state.population, self._kinship
        k = self._settings["strategy"].get("k")
        top = population.best(k or len(population))
        youngest = [model for model in population if model.generation == population.generation]
        gains = [gain for model in youngest if (gain := population.gain(model.name)) is not None]
        between_parents = [value for model in youngest if not math.isnan(value := kinship.mean(model.parents))]
        averages = [model.average for model in population.eligible() if model.average is not None]
        kept = population.skills(top[0])
        numbers = {
            "average/best": max(averages),
            "objective/best": population.value(top[0]),
            "skills/normalised": normalised_average(kept) if kept else math.nan,
            "skills/worst": worst(kept).score if kept else math.nan,
            "average/top_k": fmean(model.average for model in top if model.average is not None),
            "average/mean": fmean(averages),
            "kinship/top_k": kinship.mean([model.name for model in top]),
            "gain/best": max(gains, default=math.nan),
            "gain/mean": fmean(gains or [math.nan]),
            "kinship/parents": fmean(between_parents or [math.nan]),
            "cache/evaluations": state.known["evaluated"] / max(state.asked["evaluated"], 1),
            "cache/merges": state.known["merged"] / max(state.asked["merged"], 1),
            "seconds/merge": state.seconds["merged"],
            "seconds/measure": state.seconds["measured"],
            "seconds/evaluate": state.seconds["evaluated"],
        }
        if state.lessons:
            last = state.lessons[-1]
            numbers |= {"learning/steps": last.steps, "learning/kept_back": last.kept_back}
            numbers |= {"learning/loss": math.nan if last.loss is None else last.loss}
            numbers |= {f"learning/weight/{name}": weight for name, weight in last.weights.items()}
        if state.passes:
            numbers["cost/learning"] = state.learning
        return {**numbers, **self._costs(), GENERATION: state.closed}

    def _models(self) -> Table:
        """Return every model with its scores by task and their standard errors."""
        population, tasks = self.state.population, list(self._tasks())
        columns = ["model", "generation", "exploration", *table.COLUMNS[1:]]
        columns += [f"{what}/{task}" for task in tasks for what in ("scores", "stderr")]
        rows = []
        for model, (name, *others) in zip(population, table.rows(population, self._kinship), strict=True):
            errors = self._stderrs.get(name, {})
            by_task = [one.get(task) for task in tasks for one in (model.scores, errors)]
            rows.append([name, model.generation, model.exploration, *others, *by_task, model.failure])
        return Table([*columns, "failure"], rows)

    def _tasks(self) -> Iterable[str]:
        return next((model.scores for model in self.state.models.values() if model.scores), ())

    def _results(self) -> dict[str, Table]:
        """Return the tables of a run that has ended."""
        state, kinship = self.state, self._kinship
        names = [name for name in state.models if name in state.measured]
        matrix = [[a, *(_known(kinship.between(a, b)) if a != b else None for b in names)] for a in names]
        found = {"kinship": Table(["model", *names], matrix)}
        if state.holdout:
            tasks = list(next(iter(state.holdout.values())).scores)
            rows = [[n, h.average, h.stderr, *(h.scores.get(task) for task in tasks)] for n, h in state.holdout.items()]
            found["holdout"] = Table(["model", "average", "stderr", *(f"scores/{task}" for task in tasks)], rows)
        if kept := summary.skills_kept(state)[1]:
            columns = ["task", "specialist", "its_score", "winner", "kept"]
            found["skills"] = Table(columns, [[s.task, s.specialist, s.best, s.score, s.kept] for s in kept])
        if state.compared:
            columns = ["side", "winner", "founder", "difference", "low", "high", "p", "samples", "resamples"]
            sides = [[side, *(getattr(one, column) for column in columns[1:])] for side, one in state.compared.items()]
            found["compared"] = Table(columns, sides)
        return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
