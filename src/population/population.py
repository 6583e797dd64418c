"""Every model of a run: who descends from whom, and who is best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

from src.population.model import Model
from src.population.prediction import Derivatives
from src.population.proposal import Key, key_of
from src.population.skill import Skill, normalised_average, skills, worst

Answered = Callable[[str], Any]
"""Returns a model's answers by sample (`src.surrogate.questions.Answers`)."""
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
        return {key_of(model.parents, model.merge) for model in self.models if model.parents}

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


@dataclass(frozen=True)
class Spent:
    """What a run has cost so far, over all its starts."""

    evaluations: int
    """What was learned by gradient included, in evaluations' worth of samples, of which going backwards counts two."""
    hours: float
    """Of merging, measuring, learning and evaluating."""
    samples: int = 0
    """That were asked in all evaluations that steered the search, and in learning."""


def _average(model: Model) -> float:
    assert model.average is not None, f"{model.name} has not been evaluated"
    return model.average
