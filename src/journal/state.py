"""What a journal says happened so far: the run's state is the replay of its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.journal.events import CutOff, Lesson, check_fields, models_in, models_of
from src.journal.file import Event, events_of
from src.population import Derivatives, Geometry, KinshipTable, Model, Population, Predictor, Proposal, Spent
from src.runtime.errors import UserError
from src.runtime.names import BASE


@dataclass(frozen=True)
class HeldOut:
    """What a model is worth on what did not steer the search."""

    scores: Mapping[str, float]
    """Main metric of each task, ×100."""
    average: float
    """Weighted mean of `scores`."""
    stderr: float
    """Standard error of `average`."""


@dataclass(frozen=True)
class Compared:
    """How much better the winner is than the best founder of one side, on the same samples."""

    winner: str
    founder: str
    difference: float
    """Of the averages, in points; above 0 the winner is better."""
    low: float
    high: float
    """Bounds of the 95 % interval."""
    p: float
    """Two-sided, of no difference."""
    samples: int
    """Answered by both."""
    resamples: int = 0
    """Drawn for interval and p; 0 in older journals, which had 2,000."""
    error: float = 0.0
    """Monte-Carlo error of the bounds, in points."""


@dataclass
class State:
    """What a journal says happened so far."""

    started: Mapping[str, Any] | None = None
    """Settings, versions and machine of the run; None before its first event."""
    starts: list[Mapping[str, Any]] = field(default_factory=list)
    """Versions and provenance of every start that the journal tells of; none in journals of older versions."""
    models: dict[str, Model] = field(default_factory=dict)
    """Everyone by name, oldest first."""
    kinship: dict[str, dict[frozenset[str], float]] = field(default_factory=dict)
    """Of every metric, of every pair of models that was measured."""
    base: Model | None = None
    """The base of the family, which is no member of the population; it has scores only where a search asks for them."""
    selected: tuple[str, ...] = ()
    """The offspring of the generation that is open; empty between generations."""
    metrics: dict[str, str] = field(default_factory=dict)
    """lm-eval's name of each task's score."""
    measured: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"merged": 0.0, "measured": 0.0, "evaluated": 0.0, "held_out": 0.0, "learned": 0.0}
    )
    evaluations: int = 0
    """Of founders, offspring and, where a search asks for it, the base; a model may be evaluated more than once."""
    samples: int = 0
    """Of the evaluations that steered the search, and of learning; what was held out is counted apart."""
    per_evaluation: int = 0
    """Samples of one evaluation of everything that steers the search."""
    lessons: list[Lesson] = field(default_factory=list)
    """What was learned by gradient, oldest first."""
    derivatives: Derivatives | None = None
    """Of scores, where a search took them."""
    passes: int = 0
    """Samples that went through the model for gradients, going backwards counted twice."""
    asked: Counter[str] = field(default_factory=Counter)
    """How many results were wanted, of each kind: merged, measured, evaluated, held_out."""
    known: Counter[str] = field(default_factory=Counter)
    """How many of them were known from other runs."""
    holdout: dict[str, HeldOut] = field(default_factory=dict)
    """Of the winner and the founders."""
    holdout_failures: dict[str, str] = field(default_factory=dict)
    """Why a model could not be scored there."""
    cut_off: dict[tuple[str, str, str], CutOff] = field(default_factory=dict)
    """By event (evaluated, held_out), model and lm-eval task; of those only of which an answer was."""
    compared: dict[str, Compared] = field(default_factory=dict)
    """The winner and the best founder, by side: `select` and `holdout`."""
    expected_gain: float | None = None
    """What the search still expects to gain, in points; None where it predicts nothing."""
    closed: int = -1
    """The last generation that was finished; 0 once the founders are known, −1 before."""
    stopped: str | None = None
    """Why the run ended; None while it has not."""
    retried: set[str] = field(default_factory=set)
    """Failed candidates that were given a second chance."""
    _seen: Population | None = field(default=None, init=False, repr=False, compare=False)
    """The population, once somebody has asked for it and until the next change."""

    @property
    def given(self) -> dict[str, Model]:
        """What the user brought, by name: the base, as `base`, and the founders."""
        base = {} if self.base is None else {self.base.name: self.base}
        return base | {model.name: model for model in self.models.values() if model.founder}

    @property
    def sources(self) -> dict[str, str]:
        """Folder or hub name of what the user brought."""
        return {name: model.source or "" for name, model in self.given.items()}

    def model(self, name: str) -> Model:
        """Return the model of this name, the base included; KeyError where there is none."""
        return self.base if self.base is not None and name == self.base.name else self.models[name]

    @property
    def population(self) -> Population:
        """Everyone, as strategies see it: what is handed out stays as it is while the state goes on."""
        if self._seen is None:
            asked = (self.started or {}).get("settings", {}).get("evaluate", {})
            objective = asked.get("objective", "average")
            weights = {task["name"]: task.get("weight", 1.0) for task in asked.get("tasks", ())}
            self._seen = Population(
                tuple(self.models.values()),
                objective,
                weights=weights,
                derivatives=self.derivatives,
                expected_gain=self.expected_gain,
            )
        return self._seen

    def table(
        self, metric: str, larger_is_closer: bool, predictor: Predictor | None = None, geometry: Geometry | None = None
    ) -> KinshipTable:
        """Kinship as strategies see it."""
        return KinshipTable(metric, self.kinship.get(metric, {}), larger_is_closer, predictor, geometry)

    @property
    def spent(self) -> Spent:
        """What the run has cost so far."""
        searching = sum(self.seconds[kind] for kind in ("merged", "measured", "evaluated", "learned"))
        return Spent(self.evaluations + int(self.learning), searching / 3600, self.samples)

    @property
    def learning(self) -> float:
        """What gradients have cost, in evaluations: samples that went through the model, backwards counted twice."""
        return self.passes / max(self.per_evaluation, 1)

    def apply(self, event: Event) -> None:
        """Advance by one event."""
        kind = event["event"]
        if strangers := sorted(name for name in models_in(event) if name not in self.models):
            raise ValueError(f"{kind} has {strangers[0]!r}, which is no model of this run")
        self._count(kind, event)
        if kind == "started":
            self.started = event
        elif kind == "founder":
            about: dict[str, Any] = {key: event.get(key) for key in ("source", "fingerprint", "surroundings")}
            if event["base"]:
                self.base = Model(event["model"], **about)
            else:
                self._add(Model(event["model"], **about))
        elif kind == "selected":
            self._select(event["generation"], event["offspring"])
        elif kind == "merged":
            self._require_elders(self.models[event["model"]].generation, models_of(event["recipe"]))
            self._change(event["model"], recipe=event["recipe"], fingerprint=event["fingerprint"])
        elif kind == "measured":
            self._measure(event["models"], event["kinship"])
        elif kind == "evaluated":
            self._evaluate(event)
        elif kind == "failed":
            self._change(event["model"], failure=event["reason"])
        elif kind == "expected":
            self.expected_gain = event["gain"]
            for name, value in event["values"].items():
                self._change(name, expected=value)
        elif kind == "learned":
            self.lessons.append(Lesson.model_validate(event))
            self._pass(event)
        elif kind == "differentiated":
            named = event["model"], tuple(event["directions"]), tuple(event["tasks"])
            self.derivatives = Derivatives(*named, np.array(event["values"]))
            self._seen = None
            self.seconds["learned"] += event["seconds"]
            self._pass(event)
        elif kind == "closed":
            self.selected, self.closed = (), event["generation"]
        elif kind == "held_out":
            self.metrics.update(event.get("metrics", {}))
            self.holdout[event["model"]] = HeldOut(event["scores"], event["average"], event["stderr"])
            self.holdout_failures.pop(event["model"], None)
        elif kind == "holdout_failed":
            self.holdout_failures[event["model"]] = event["reason"]
        elif kind == "compared":
            told = {key: value for key, value in event.items() if key not in {"event", "side"}}
            self.compared[event["side"]] = Compared(**told)
        elif kind == "resumed":
            self._resume(event["settings"])
        elif kind == "retried":
            again = self._change(event["model"], failure=None)
            self.retried.add(again.name)
            self.selected = (*self.selected, again.name)
        elif kind == "stopped":
            self.stopped = event["reason"]

    def _count(self, kind: str, event: Event) -> None:
        """Take up what events of several kinds have."""
        if kind in self.seconds:
            self.seconds[kind] += event["seconds"]
            self.asked[kind] += 1
            self.known[kind] += event.get("cached", False)
        if kind in {"evaluated", "held_out"}:
            for task, one in event.get("cut_off", {}).items():
                self.cut_off[kind, event["model"], task] = CutOff(**one)
        if "provenance" in event:
            self.starts.append({key: event[key] for key in ("versions", "provenance") if key in event})

    def _pass(self, event: Event) -> None:
        passes = event["forward"] + 2 * event["back"]
        self.passes += passes
        self.samples += passes

    def _select(self, generation: int, offspring: Sequence[Mapping[str, Any]]) -> None:
        for one in offspring:
            self._require_elders(generation, one["parents"])
            known = Proposal.from_dict(one)
            new = Model(one["name"], generation, known.parents, known.exploration, known.merge)
            self._add(replace(new, predicted=known.predicted, whole=known.whole))
        self.selected = tuple(one["name"] for one in offspring)

    def _add(self, model: Model) -> None:
        """Add a model, the youngest."""
        if model.name in self.models:
            raise ValueError(f"the population has a model {model.name!r} already")
        self.models[model.name], self._seen = model, None

    def _change(self, name: str, **changes: Any) -> Model:
        """Replace fields of one model. In place: a new population an event would make replay quadratic."""
        if name == BASE and self.base is not None:
            self.base = replace(self.base, **changes)
            return self.base
        self.models[name], self._seen = replace(self.models[name], **changes), None
        return self.models[name]

    def _require_elders(self, generation: int, names: Iterable[str]) -> None:
        """Nobody is made of a model of its own generation, so no model can be needed to make itself."""
        for model in map(self.models.__getitem__, names):
            if model.generation >= generation or model.average is None:
                raise ValueError(f"{model.name} is no model that was scored before generation {generation}")

    def _resume(self, settings: Mapping[str, Any]) -> None:
        before = self.started or {}
        if before.get("settings", {}).get("evaluate", {}).get("holdout") != settings["evaluate"].get("holdout"):
            self.holdout, self.holdout_failures = {}, {}  # other tasks are held out from now on
        self.compared = {}
        self.started, self.stopped = {**before, "settings": settings}, None

    def _measure(self, models: Iterable[str], kinship: Mapping[str, Sequence[tuple[str, str, float]]]) -> None:
        self.measured.update(models)
        pairs: dict[tuple[str, str], frozenset[str]] = {}  # the metrics share them: they take more room than the values
        for metric, values in kinship.items():
            known = self.kinship.setdefault(metric, {})
            for a, b, value in values:
                known[pairs.setdefault((a, b), frozenset((a, b)))] = value

    def _evaluate(self, event: Event) -> None:
        self.evaluations += 1
        self.metrics.update(event.get("metrics", {}))
        self.samples += event["samples"]
        self.per_evaluation = max(self.per_evaluation, event["samples"])
        found = {key: event[key] for key in ("scores", "average", "stderr")}
        self._change(event["model"], **found, part=event.get("part"))


def replay(events: Iterable[Event], state: State | None = None) -> State:
    """Return the state that these events lead to, from `state` on or from the very beginning.

    Raises:
        UserError: an event that no kinmerge of this version writes, with its line's number.
    """
    state = state or State()
    for number, event in enumerate(events, 1):
        try:
            check_fields(event)
            state.apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"line {number} of the journal makes no sense to this version ({type(error).__name__}: {error}); "
                "go on with the version that wrote it, or begin anew with name=…"
            ) from error
    return state


def run_state(folder: Path) -> State | None:
    """Return the state of the run in a folder, running or not; None where there is no run."""
    return replay(events_of(folder)) if (folder / "journal.jsonl").is_file() else None


def cache_savings(states: Iterable[State]) -> str:
    """Return what the cache saved these runs, in words; empty where it saved nothing."""
    asked, known = Counter[str](), Counter[str]()
    for state in states:
        asked += state.asked
        known += state.known
    words = (
        ("evaluated", "evaluations"),
        ("held_out", "evaluations on the holdout"),
        ("merged", "merges"),
        ("measured", "kinship passes"),
    )
    parts = [f"{known[k]} of {asked[k]} {name} ({known[k] / asked[k]:.0%})" for k, name in words if known[k]]
    return f"known from other runs: {', '.join(parts)}" if parts else ""
