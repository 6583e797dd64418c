"""A strategy of somebody's own that proposes recipes: a merge by another method, then weights by block upon it."""

from dataclasses import dataclass

from src.population import KinshipTable, Population, Prediction, Proposal
from src.strategy import Strategy
from src.strategy.recipes import Blocks, weighted

WUDI = {"method": "wudi", "base_model": "ancestor", "parameters": {"scale": 1.5, "rest": 0.2}}


@dataclass(frozen=True)
class Mixtures(Strategy):
    """Generation 1: all founders by WUDI, twice in different strengths; from then on weighted sums with the first."""

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        founders = population.better_first(model.name for model in population if model.founder)
        if population.generation == 0:
            each = [{"weight": 1.0}] * len(founders)
            stronger = {**WUDI, "parameters": {"scale": 2.0}}
            return [Proposal(founders, merge={**one, "each": each}) for one in (WUDI, stronger)]
        assert kinship.geometry is not None
        blocks = Blocks.of("part", kinship.geometry)
        step = population.generation
        weights = {name: [0.05 * step, 0.1, 0.1 * step, 0.2] for name in founders}
        weights["1-1"] = [0.5] * len(blocks.names)
        return [weighted(population, weights, blocks, Prediction(50.0 + step, 49.0, 53.0))]

    def possible_parents(self, population: Population) -> set[str]:
        return {model.name for model in population if model.founder} | {"1-1"}

    def most_proposals(self, models: int) -> int:
        return 2

    def most_parents(self, founders: int) -> int:
        return founders + 1


class Mistaken(Mixtures):
    """Asks WUDI for a parameter that it does not have."""

    def propose(self, population: Population, kinship: KinshipTable) -> list[Proposal]:
        founders = population.better_first(model.name for model in population if model.founder)
        return [Proposal(founders, merge={**WUDI, "parameters": {"strength": 2.0}})]
