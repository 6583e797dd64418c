"""Policy: which merges to make next (`Strategy`), and when to stop (`Stop`).

No files, and no torch but in `problem`, which a search of recipes imports once there is something to search.
A new strategy is a subclass of `Strategy` and a line in `STRATEGIES`, or a class of the user's own outside the project,
named by its dotted path: `strategy.name=my_package.my_module.MyStrategy` (docs/extending.md).
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from src.runtime import plugins
from src.strategy.base import Strategy
from src.strategy.m2n2 import M2N2
from src.strategy.one_shot import OneShot
from src.strategy.optuna_search import OptunaSearch
from src.strategy.random_pairs import RandomPairs
from src.strategy.recipe_gradient import RecipeGradient
from src.strategy.recipe_search import RecipeSearch
from src.strategy.stop import Stop
from src.strategy.topk import Exploration, GreedyTopk, KinshipTopk

STRATEGIES: dict[str, type[Strategy]] = {
    "kinship_topk": KinshipTopk,
    "greedy_topk": GreedyTopk,
    "random_pairs": RandomPairs,
    "one_shot": OneShot,
    "recipe_search": RecipeSearch,
    "recipe_gradient": RecipeGradient,
    "optuna_search": OptunaSearch,
    "m2n2": M2N2,
}


def strategy_of(settings: Mapping[str, Any]) -> Strategy:
    """Return the strategy of these settings, whose `name` is one of `STRATEGIES` or a dotted path.

    Raises:
        KeyError: there is no strategy of that name.
        ValidationError: the other settings are not what it takes.
        UserError: nothing that is a strategy can be imported from the dotted path.
    """
    name = str(settings["name"])
    kind: type[Strategy] = plugins.load_class(name, Strategy) if plugins.is_dotted(name) else STRATEGIES[name]
    return TypeAdapter(kind).validate_python(settings)


__all__ = [
    "M2N2",
    "STRATEGIES",
    "Exploration",
    "GreedyTopk",
    "KinshipTopk",
    "OneShot",
    "OptunaSearch",
    "RandomPairs",
    "RecipeGradient",
    "RecipeSearch",
    "Stop",
    "Strategy",
    "strategy_of",
]
