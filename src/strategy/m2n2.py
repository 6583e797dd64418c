"""Model merging of natural niches (arXiv 2508.16204): whoever answers what others cannot is worth merging with."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from src.population import Geometry, Key, KinshipTable, Model, Population, Proposal
from src.strategy.base import Strategy

if TYPE_CHECKING:
    from src.surrogate.questions import Answers

ATTEMPTS = 20
"""Draws for each merge of a generation before no more new ones are looked for."""
DIGITS = 3
"""Of a mixing ratio, after the point."""
_AFTER_LAYERS = re.compile(r"lm_head|embed_out|^output\.")


@dataclass(frozen=True)
class M2N2(Strategy):
    """An archive of models that share the questions they can answer; a parent is drawn by what it answers that few can.

    With s_ij the score of model i on question j, and z_j = Σ_i s_ij over the archive, a model's shared fitness is
    Σ_j s_ij / z_j^α. The first parent A is drawn by it, the second by its attraction
    Σ_j max(0, s_kj − s_Aj) / z_j^α, and both are interpolated spherically by a ratio w before a random
    point of their flattened weights and by 1 − w after it. A model enters the archive where it is fitter
    than the least fit in it, who leaves for good. Nothing is mutated, as in the paper where models are trained already.
    Here questions count as they do in the average, whatever the size of their tasks.
    """

    name: Literal["m2n2"]
    archive: Annotated[int, Field(ge=2)]
    """Most models that can be parents."""
    alpha: Annotated[float, Field(ge=0)]
    """How much a question is worth less that others answer too: 0 not at all."""
    batch: Annotated[int, Field(ge=1)]
    """Merges a generation; the paper has one."""
    seed: int
    needs_answers: ClassVar[bool] = True

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return `batch` merges of two of the archive, each with a ratio and a split point of its own."""
        members, scores, counts = self._archived(population)
        if len(members) < 2:
            return []
        shared = scores * self._worth(scores, counts)  # what each earns by each question
        # Seeded by generation, so that the draw needs no state and a resumed run draws the same.
        draw = random.Random(f"{self.seed}/{population.generation + 1}")
        tried = population.merged()
        found: dict[Key, Proposal] = {}
        for _ in range(ATTEMPTS * self.batch):
            first = _drawn(draw, shared.sum(axis=1))
            attraction = (shared - shared[first]).clip(min=0).sum(axis=1)
            if not attraction.any():  # nobody answers what the first cannot: anybody will do
                attraction = np.ones(len(members))
                attraction[first] = 0
            parents = population.better_first(members[i].name for i in (first, _drawn(draw, attraction)))
            proposal = Proposal(parents, merge=_interpolation(draw, kinship.geometry))
            if proposal.key not in tried:
                found.setdefault(proposal.key, proposal)
            if len(found) == self.batch:
                break
        return list(found.values())

    def possible_parents(self, population: Population) -> set[str]:
        """Return the archive: who has left it never comes back."""
        return {model.name for model in self._archived(population)[0]}

    def most_proposals(self, models: int) -> int:
        """Return `batch`."""
        return self.batch

    def _archived(self, population: Population) -> tuple[list[Model], np.ndarray, np.ndarray]:
        """Return the archive after every model so far, oldest first; and of it what `_scores` returns."""
        # A candidate that is only supposed to have some score, however low, has no answers, and is not sure of a place.
        models = [model for model in population.eligible() if math.isfinite(population.value(model))]
        scores, counts = _scores(population, models)
        members: list[int] = []
        for newcomer in range(len(models)):
            members.append(newcomer)
            if len(members) > self.archive:
                competing = scores[members]
                fitness = (competing * self._worth(competing, counts)).sum(axis=1)
                del members[int(np.argmin(fitness))]
        return [models[i] for i in members], scores[members], counts

    def _worth(self, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return what a right answer earns [questions]: what the question counts over z_j^α; z_j is 1 for nobody's."""
        total = scores.sum(axis=0)
        total[total == 0] = 1
        worth: np.ndarray = counts / total**self.alpha
        return worth


def _scores(population: Population, models: Sequence[Model]) -> tuple[np.ndarray, np.ndarray]:
    """Return how well each model answered each question, 0 to 1 [n, questions], and what a question counts [questions].

    Without answers, tasks stand in for questions; where there are none either, the models' values do.
    """
    if population.answers is not None and models:
        answers = [population.answers(model.name) for model in models]
        return np.array([_right(found) for found in answers]), answers[0].questions.weight
    tasks = list(models[0].scores) if models else []
    rows = [[model.scores.get(task, 0.0) for task in tasks] or [population.value(model)] for model in models]
    scores = np.array(rows, dtype=float).reshape(len(models), max(len(tasks), 1)) / 100
    return scores, np.ones(scores.shape[1])


def _right(answers: Answers) -> np.ndarray:
    """Return what each answer is worth, 0 to 1 [questions]; where there is none, the model's score in that task."""
    questions = answers.questions
    best = np.maximum.reduceat(answers.values, questions.first)
    chosen = answers.values[questions.first + questions.gold] >= best
    right = np.where(questions.choices > 1, chosen, answers.values[questions.first]).astype(float)
    asked = ~np.isnan(best)
    totals, counts = (
        np.bincount(questions.task[asked], weights, minlength=len(questions.tasks))
        for weights in (right[asked], np.ones(asked.sum()))
    )
    return np.where(asked, right, (totals / np.maximum(counts, 1))[questions.task])


def _drawn(draw: random.Random, weights: np.ndarray) -> int:
    """Draw a place with probabilities in proportion to `weights`; any, where all are 0."""
    return draw.choices(range(len(weights)), weights.tolist() if weights.any() else None)[0]


def _interpolation(draw: random.Random, geometry: Geometry | None) -> dict[str, Any]:
    """Return a spherical interpolation by a ratio before a point of the flattened weights, and by 1 − it after it.

    mergekit interpolates tensor by tensor, so the point moves to the nearest edge between two tensors. Where no tensors
    are known there is one ratio.
    """
    ratio, at = round(draw.random(), DIGITS), draw.random()
    tensors = _flattened(geometry) if geometry is not None else []
    ends = list(accumulate(tensor.count for tensor in tensors))
    edges = [0, *ends]
    before = min(range(len(edges)), key=lambda i: abs(edges[i] - at * edges[-1]))
    sides = [{"filter": name, "value": ratio} for name in _filters(tensors, before)]
    rest = round(1 - ratio, DIGITS)
    t: Any = [*sides, {"value": rest}] if 0 < before < len(tensors) else ratio
    return {"method": "slerp", "base_model": "parent", "parameters": {"t": t}, "each": []}


def _flattened(geometry: Geometry) -> list[Any]:
    """Return the tensors in the order of the model: what comes before the layers, the layers, what comes after."""

    def place(tensor: Any) -> tuple[int, int]:
        if tensor.layer is not None:
            return 1, tensor.layer
        first = tensor.kind == "embeddings" and not _AFTER_LAYERS.search(tensor.name)
        return (0, 0) if first else (2, 0)

    return sorted(geometry.tensors, key=place)


def _filters(tensors: Sequence[Any], before: int) -> Iterator[str]:
    """Yield mergekit filters for the first `before` tensors: a whole layer by its prefix, others by their names."""
    for layer, group in groupby(tensors[:before], key=lambda tensor: tensor.layer):
        names = [tensor.name for tensor in group]
        whole = layer is not None and len(names) == sum(tensor.layer == layer for tensor in tensors)
        if whole and (found := re.match(rf".*?\.{layer}\.", names[0])):
            yield found[0]
        else:
            yield from names
