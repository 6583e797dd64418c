"""Weighted merges of all founders, searched by Optuna's samplers.

CMA-ES is what mergekit-evolve searches with, NSGA-II what mergenetic does (arXiv 2505.11427).
"""

from __future__ import annotations

import importlib.util
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from src.population import Key, KinshipTable, Population, Proposal
from src.strategy.base import OfFounders
from src.strategy.recipes import DIGITS, Blocks, Division, weighted, weights_of

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "cmaes", "gp", "random", "nsgaii"]
GENETIC = ("cmaes", "nsgaii")
"""Samplers that work in generations of their own, and keep with every trial which one it belongs to."""
ATTEMPTS = 10
"""Suggestions of a sampler that were tried before, after which one is drawn at random."""


@dataclass(frozen=True)
class OptunaSearch(OfFounders):
    """The weight of every founder in every block of the model, suggested by a sampler of Optuna's.

    Every call makes the study anew, in memory, from the models of the journal: as finished trials, or, for samplers
    that work in generations, by asking for each again and having it given what it was given then. So nothing is kept
    but the journal, a resumed run goes on as it would have, and models made by another version of Optuna count too.
    """

    name: Literal["optuna_search"]
    sampler: Sampler
    blocks: Division
    batch: Annotated[int, Field(ge=1)]
    """Models a generation; fewer where a generation of a genetic sampler ends within it."""
    population_size: Annotated[int, Field(ge=2)] | None
    """Models in a generation of a genetic sampler; None: 4 + ⌊3 ln n⌋ of n weights, as CMA-ES has it."""
    low: float
    high: float
    seed: int

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"has low={self.low:g} and high={self.high:g}; weights are searched from low to high")
        if self.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
            raise ValueError("has sampler=cmaes, which needs the package cmaes: pip install cmaes")

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        """Return the next models, suggested one after the other while those before are not known yet."""
        import optuna

        founders = tuple(model.name for model in population.eligible() if model.founder)
        blocks = Blocks.of(self.blocks, kinship.geometry)
        space: dict[str, optuna.distributions.BaseDistribution] = {
            f"{founder}, {block}": optuna.distributions.FloatDistribution(self.low, self.high)
            for founder in founders
            for block in blocks.names
        }
        tried = population.merged()
        found: dict[Key, Proposal] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental features
            study, wanted = self._study(population, founders, blocks, space)
            for attempt in range(2 * ATTEMPTS * wanted):
                if attempt == ATTEMPTS * wanted:
                    study.sampler = optuna.samplers.RandomSampler(seed=self._seed(population))
                trial = study.ask(space)
                weights = np.reshape([trial.params[key] for key in space], (len(founders), -1))
                proposal = weighted(population, dict(zip(founders, weights.tolist(), strict=True)), blocks)
                if proposal.key in tried or proposal.key in found or _is_founder(weights):
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    found[proposal.key] = proposal
                if len(found) == wanted:
                    break
        return list(found.values())

    def most_proposals(self, models: int) -> int:
        """Return `batch`."""
        return self.batch

    def _seed(self, population: Population) -> int:
        """Return a seed that the number of models moves, so that the draw needs no state."""
        return random.Random(f"{self.seed}/{len(population)}").randrange(2**31)

    def _study(
        self,
        population: Population,
        founders: Sequence[str],
        blocks: Blocks,
        space: dict[str, optuna.distributions.BaseDistribution],
    ) -> tuple[optuna.Study, int]:
        """Return the study as it stands after every model so far, and how many models it is to be asked for."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        size = self.population_size or 4 + math.floor(3 * math.log(len(space)))
        tasks, seed = self._tasks(population), self._seed(population)
        study = optuna.create_study(directions=["maximize"] * max(1, len(tasks)), sampler=self._sampler(seed, size))
        known = {True: 0, False: 0}  # founders and offspring in generations of the sampler's own
        for generation in range(population.generation + 1):
            waiting = []
            for model in population.of_generation(generation):
                weights = weights_of(model, founders, blocks)
                if weights is None or not ((self.low <= weights) & (weights <= self.high)).all():
                    continue
                given = dict(zip(space, weights.ravel().tolist(), strict=True))
                values = [model.scores[task] for task in tasks] or [population.value(model)]
                if self.sampler not in GENETIC or (model.founder and self.sampler == "cmaes"):
                    study.add_trial(optuna.trial.create_trial(params=given, distributions=space, values=values))
                    continue
                known[model.founder] += 1
                study.enqueue_trial(given)
                trial = study.ask(space)
                _ = trial.relative_params  # has the sampler do all that it does before a suggestion
                waiting.append((trial, values))
            for trial, values in waiting:
                study.tell(trial, values)
        study.sampler = self._sampler(seed, size)  # whose draws do not depend on how many there were before
        if self.sampler not in GENETIC:
            return study, self.batch
        first = max(0, size - known[True])
        left = first - known[False] if known[False] < first else size - (known[False] - first) % size
        return study, min(self.batch, left)

    def _tasks(self, population: Population) -> list[str]:
        """Return the tasks whose scores are objectives of their own; [] where the objective of the run is the only."""
        scored = [model.scores for model in population.eligible()]
        tasks = list(scored[0]) if scored and self.sampler == "nsgaii" else []
        return tasks if len(tasks) > 1 and all({*tasks} <= {*scores} for scores in scored) else []

    def _sampler(self, seed: int, size: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        if self.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        if self.sampler == "gp":
            return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        if self.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, popsize=size, warn_independent_sampling=False)
        if self.sampler == "nsgaii":
            return samplers.NSGAIISampler(seed=seed, population_size=size)
        return samplers.RandomSampler(seed=seed)


def _is_founder(weights: np.ndarray) -> bool:
    """Return whether weights [n, blocks] are those of a founder as it is."""
    rounded = weights.round(DIGITS)
    return bool(((rounded == 1).all(axis=1).sum() == 1) and ((rounded == 0).all(axis=1).sum() == len(rounded) - 1))
