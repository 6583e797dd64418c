"""Policy: which merges to make next (`Strategy`), and when to stop (`Stop`). No torch, no files.

A new strategy is a subclass of `Strategy` and a line in `STRATEGIES`, or a class of the user's own outside the project,
named by its dotted path: `strategy.name=my_package.my_module.MyStrategy` (docs/extending.md).
"""

from src.strategy.base import Strategy
from src.strategy.one_shot import OneShot
from src.strategy.random_pairs import RandomPairs
from src.strategy.stop import Stop
from src.strategy.topk import Exploration, GreedyTopk, KinshipTopk

STRATEGIES: dict[str, type[Strategy]] = {
    "kinship_topk": KinshipTopk,
    "greedy_topk": GreedyTopk,
    "random_pairs": RandomPairs,
    "one_shot": OneShot,
}

__all__ = ["STRATEGIES", "Exploration", "GreedyTopk", "KinshipTopk", "OneShot", "RandomPairs", "Stop", "Strategy"]
