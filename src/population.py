"""Who descends from whom, and how good each is: the records that strategies choose from. No torch, no files."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Predictor = Callable[[Sequence[str]], Mapping[str, float] | None]


Key = frozenset[str]
"""The parents of a merge, and its own way where it has one, as text."""
Answered = Callable[[str], Any]
"""Returns a model's answers by sample (`src.surrogate.questions.Answers`)."""


@dataclass(frozen=True)
class Prediction:
    """What a strategy expects a model's value to be (see `Objective`), in points, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """What a search expects once a generation is known."""

    values: Mapping[str, float]
    """Of models by name: what their values are taken to be, in points; they are ranked by it."""
    gain: float
    """What is still expected to be gained on the best of them, in points; 0 or more."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Of a model's scores by the weights of its recipe."""

    model: str
    directions: tuple[str, ...]
    """Names of the n models that the recipe weighs."""
    tasks: tuple[str, ...]
    """Of which there are any: those of choices."""
    values: np.ndarray
    """float64 [tasks, n, B]: of the mean probability of the right choice (0 to 1) by direction and block."""


@dataclass(frozen=True)
class Proposal:
    """A model that a strategy proposes to make: its parents and, if it is not the run's merge, how they are merged.

    The better parent is written first. Most merge methods take two; some take any number.
    """

    parents: tuple[str, ...]
    exploration: bool = False
    """Chosen for being unrelated instead of for being good."""
    merge: Mapping[str, Any] | None = None
    """A merge of its own in place of the run's: `method`, `base_model` and `parameters` as in the configuration's
    `merge`, and `each`, a list of parameters for every parent in turn."""
    predicted: Prediction | None = None
    """What it promises; None where the strategy predicts nothing."""
    whole: bool = False
    """It is asked everything, where others are asked a part of the samples: what a search measures others by."""

    @property
    def key(self) -> Key:
        """What makes two proposals the same: the parents, in any order, and a merge of their own."""
        return _key(self.parents, self.merge)

    def as_dict(self) -> dict[str, Any]:
        """Return the proposal as plain data, without what it does not have: as the journal keeps it."""
        found: dict[str, Any] = {"parents": list(self.parents), "exploration": self.exploration}
        if self.merge is not None:
            found["merge"] = dict(self.merge)
        if self.predicted is not None:
            found["predicted"] = asdict(self.predicted)
        if self.whole:
            found["whole"] = True
        return found

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Proposal:
        """Return what `as_dict` made plain data of."""
        predicted = kept.get("predicted")
        promised = Prediction(**predicted) if predicted is not None else None
        return cls(
            tuple(kept["parents"]), kept["exploration"], kept.get("merge"), promised, whole=kept.get("whole", False)
        )


@dataclass(frozen=True)
class Model:
    """A founder (generation 0, no parents) or an offspring, from its proposal to its last score."""

    name: str
    generation: int = 0
    parents: tuple[str, ...] = ()
    exploration: bool = False
    merge: Mapping[str, Any] | None = None
    """The merge of its own that an offspring was proposed with; None for the run's."""
    predicted: Prediction | None = None
    """What its proposal promised."""
    whole: bool = False
    """Whether it is asked everything, where others are asked a part of the samples."""
    expected: float | None = None
    """What a search that predicts answers takes its value to be, now that it was evaluated; in points."""
    source: str | None = None
    """Folder or hub name that a founder came from; None for offspring."""
    surroundings: str | None = None
    """Digest of the files beside a founder's weights; None for offspring, and in journals of earlier versions."""
    recipe: Mapping[str, Any] | None = None
    """How an offspring was merged; None until it was."""
    fingerprint: str | None = None
    """Of the checkpoint's content; None until there is one."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Main metric of each task, ×100."""
    average: float | None = None
    """Weighted mean of `scores`; None until the model has been evaluated."""
    stderr: float | None = None
    """Standard error of `average`."""
    part: int | None = None
    """Which part of the samples its scores are of, where offspring are asked a part each; None: all of them."""
    failure: str | None = None
    """Why this candidate can never be a parent: its merge, its weights or its evaluation failed."""

    @property
    def founder(self) -> bool:
        """Whether the user brought this model."""
        return not self.parents

    @property
    def pending(self) -> bool:
        """Whether it still has to be evaluated."""
        return self.average is None and self.failure is None


@dataclass(frozen=True)
class Spent:
    """What a run has cost so far, over all its starts."""

    evaluations: int
    """What was learned by gradient included, in evaluations' worth of samples, of which going backwards counts two."""
    hours: float
    """Of merging, measuring, learning and evaluating."""
    samples: int = 0
    """That were asked in all evaluations that steered the search, and in learning."""


@dataclass(frozen=True)
class Skill:
    """One task: who of the founders is best at it, and how much of that a model has kept."""

    task: str
    specialist: str
    """The founder that is best at the task; the first of equals."""
    best: float
    """The specialist's score."""
    score: float
    """The model's."""

    @property
    def lost(self) -> float:
        """Points below the specialist; negative where the model is better."""
        return self.best - self.score

    @property
    def kept(self) -> float:
        """Share of the specialist's score, 0 or more; 1 where the specialist scores nothing either."""
        return self.score / self.best if self.best > 0 else 1.0


def skills(founders: Mapping[str, Mapping[str, float]], model: Mapping[str, float]) -> list[Skill]:
    """Return a model's skills, in the order of its tasks.

    Args:
        founders: their scores by name; at least one founder, all with the same tasks.
        model: the model's scores on the same tasks and the same samples.
    """
    found = []
    for task, score in model.items():
        specialist = max(founders, key=lambda name: founders[name][task])
        found.append(Skill(task, specialist, founders[specialist][task], score))
    return found


def normalised_average(found: list[Skill]) -> float:
    """Return the mean share kept over tasks, ×100: what the literature reports as normalised accuracy.

    100 for a model that is as good as the specialist at every task (2412.00081, section 5.1).
    """
    return 100 * fmean(skill.kept for skill in found)


def worst(found: list[Skill]) -> Skill:
    """Return the task with the lowest score of the model; the first of equals."""
    return min(found, key=lambda skill: skill.score)


def neglected(found: list[Skill], share: float = 0.5) -> list[Skill]:
    """Return the tasks of which a model keeps less than a share of the specialist's score, the most neglected first."""
    return sorted((skill for skill in found if skill.kept < share), key=lambda skill: skill.kept)


Objective = Literal["average", "normalised", "worst"]
"""What models are ranked by: the scores' mean, weighted, the mean share of specialists' scores, or the worst task."""


@dataclass(frozen=True)
class Population:
    """Every model so far, oldest first, founders included. Immutable: each change is a new population.

    What is looked up more than once (a model by its name, the order by average) is worked out once.
    """

    models: tuple[Model, ...] = ()
    objective: Objective = "average"
    weights: Mapping[str, float] = field(default_factory=dict)
    """What each task counts in the average, where it is not 1."""
    answers: Answered | None = field(default=None, compare=False)
    """What a model answered, by sample, for a strategy that asks for it; None where answers are not kept."""
    learner: Callable[[Any], Any] | None = field(default=None, compare=False)
    """Learns weights by gradient (`src.strategy.recipe_gradient.Learner`), or takes derivatives
    (`src.strategy.recipe_search.Differentiator`), for a strategy that asks for it."""
    derivatives: Derivatives | None = field(default=None, compare=False)
    """Those that were taken so far."""
    earlier: Callable[[], tuple[Sequence[Model], Mapping[str, str]]] | None = field(default=None, compare=False)
    """Returns the models of an earlier run that a search starts from, oldest first, and by their name there the names
    of the founders that are here too; None where there is no such run."""
    expected_gain: float | None = None
    """What a search still expects to gain on its best model, in points; None where nothing is predicted."""

    @cached_property
    def _by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    @cached_property
    def _ranked(self) -> list[Model]:
        return sorted(self.eligible(), key=lambda model: -self.value(model))

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Model:
        if name in self._by_name:
            return self._by_name[name]
        raise KeyError(f"no model {name!r} in the population of {[model.name for model in self.models]}")

    def add(self, model: Model) -> Population:
        """Return this population and one more model, the youngest."""
        if model.name in self:
            raise ValueError(f"the population has a model {model.name!r} already")
        return replace(self, models=(*self.models, model))

    def update(self, name: str, **changes: object) -> Population:
        """Return this population with fields of one model replaced."""
        changed = self._by_name | {name: replace(self[name], **changes)}  # type: ignore[arg-type]
        return replace(self, models=tuple(changed.values()))

    def value(self, model: Model) -> float:
        """Return what an evaluated model is ranked by, in points: see `Objective`.

        What a search expects of it comes before what was found, which is luckiest for the best. An average alone where
        the journal has no scores by task, or where the founders are still being evaluated.
        """
        if model.expected is not None:
            return model.expected
        return self.found(model)

    def found(self, model: Model) -> float:
        """Return what an evaluated model's own scores are worth, in points."""
        if self.objective == "average" or not model.scores or not self._specialists:
            return _average(model)
        found = self.skills(model)
        return normalised_average(found) if self.objective == "normalised" else worst(found).score

    @cached_property
    def _specialists(self) -> dict[str, Mapping[str, float]]:
        founders = {model.name: model.scores for model in self.eligible() if model.founder and model.scores}
        return {} if any(model.founder and model.pending for model in self.models) else founders

    def skills(self, model: Model) -> list[Skill]:
        """Return, by task, what an evaluated model has kept of the founders' skills; [] where no founder was scored."""
        return skills(self._specialists, model.scores) if self._specialists else []

    @property
    def generation(self) -> int:
        """The youngest model's generation; 0 while there are founders only."""
        return max((model.generation for model in self.models), default=0)

    def until(self, generation: int) -> Population:
        """Return the population as it was when `generation` closed."""
        return replace(self, models=tuple(model for model in self.models if model.generation <= generation))

    def of_generation(self, generation: int) -> list[Model]:
        """Return the models that may become parents among those born in `generation`, oldest first."""
        return [model for model in self.eligible() if model.generation == generation]

    def eligible(self) -> list[Model]:
        """Return the models that may become parents: evaluated, and not failed; oldest first."""
        return [model for model in self.models if model.average is not None and model.failure is None]

    def best(self, k: int) -> list[Model]:
        """Return S_k: the k best models by the objective, or all there are, best first, ties broken by age."""
        return self._ranked[:k]

    def tops(self, k: int) -> list[list[Model]]:
        """S_k when each generation had closed, the founders first: `until(generation).best(k)` of all, in one walk."""
        born: list[list[Model]] = [[] for _ in range(self.generation + 1)]
        for model in self.eligible():
            born[model.generation].append(model)
        found: list[list[Model]] = []
        for new in born:
            before = found[-1] if found else []
            found.append(sorted((*before, *new), key=lambda model: -self.value(model))[:k])
        return found

    def better_first(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the same names, best average first, ties broken by age: the order of parents within a pair."""
        wanted = set(names)
        return tuple(model.name for model in self._ranked if model.name in wanted)

    def merged(self) -> set[Key]:
        """Return the keys of all proposals that were tried, failed attempts included."""
        return {_key(model.parents, model.merge) for model in self.models if model.parents}

    def gain(self, name: str) -> float | None:
        """Merge gain: the offspring's average minus the mean of its parents' averages; None for founders."""
        model = self[name]
        if model.founder or model.average is None:
            return None
        return model.average - fmean(_average(self[parent]) for parent in model.parents)

    def ancestors(self, name: str) -> list[Model]:
        """Everyone that `name` descends from, oldest first, itself excluded."""
        found: set[str] = set()
        queue = list(self[name].parents)
        while queue:
            parent = queue.pop()
            if parent not in found:
                found.add(parent)
                queue.extend(self[parent].parents)
        return [model for model in self.models if model.name in found]


class Geometry(Protocol):
    """Inner products of what models changed, tensor by tensor: `src.kinship.Grams`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The n models that were measured, without the base."""

    @property
    def tensors(self) -> Sequence[Any]:
        """The T compared tensors, each with `name`, `kind` (attention, mlp, embeddings, norms, other) and `layer`."""

    @property
    def gram(self) -> np.ndarray:
        """float64 [T, n + 1, n + 1]: of the base's weights (row 0) and every model's delta; NaN if never measured."""


@dataclass(frozen=True)
class KinshipTable:
    """Kinship of every pair of models that was measured, under one metric."""

    metric: str
    values: Mapping[frozenset[str], float] = field(default_factory=dict)
    larger_is_closer: bool = True
    """True for similarities (pcc, cosine), False for a distance (euclidean)."""
    predictor: Predictor | None = None
    geometry: Geometry | None = None
    """What kinship follows from, of all measured models; None before the founders were measured."""

    def predicted(self, parents: Sequence[str]) -> Mapping[str, float] | None:
        """Kinship that an offspring of `parents` would have to every measured model, before anything is merged.

        None where the run's merge method does not allow to tell.
        """
        return self.predictor(parents) if self.predictor is not None else None

    def between(self, a: str, b: str) -> float:
        """Kinship of two models; NaN where it was never measured."""
        return self.values.get(frozenset((a, b)), math.nan)

    def mean(self, names: Sequence[str]) -> float:
        """Kinship of n models: the mean over all pairs; NaN for fewer than two, or where one was never measured."""
        pairs = list(itertools.combinations(names, 2))
        return fmean(self.between(a, b) for a, b in pairs) if pairs else math.nan

    def least_related(self, name: str, candidates: Sequence[str]) -> str | None:
        """Return the candidate least related to `name` (the first of equals); None where no kinship is known."""
        known = [other for other in candidates if not math.isnan(self.between(name, other))]
        sign = 1 if self.larger_is_closer else -1
        return min(known, key=lambda other: sign * self.between(name, other), default=None)

    def closer(self, kinship: float, threshold: float) -> bool:
        """Return whether `kinship` is past `threshold`, towards more related. NaN never is."""
        return kinship > threshold if self.larger_is_closer else kinship < threshold


def _key(parents: Sequence[str], merge: Mapping[str, Any] | None) -> Key:
    if merge is None:
        return frozenset(parents)
    whole = {key: value for key, value in merge.items() if key != "each"}
    each = dict(zip(parents, merge.get("each", ()), strict=False))
    return frozenset({*parents, json.dumps([whole, each], sort_keys=True)})


def _average(model: Model) -> float:
    assert model.average is not None, f"{model.name} has not been evaluated"
    return model.average
