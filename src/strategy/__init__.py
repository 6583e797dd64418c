"""Policy: which pairs to merge next (`STRATEGIES`), and when to stop (`Stop`).

A strategy is a frozen dataclass of settings with three methods. It sees a `Population` and a `KinshipTable`, holds no
history, touches no file and no clock: given the same scores and kinships it always chooses the same pairs.
"""

from src.strategy.one_shot import OneShot
from src.strategy.random_pairs import RandomPairs
from src.strategy.stop import Spent, Stop
from src.strategy.topk import Exploration, GreedyTopk, KinshipTopk

Strategy = KinshipTopk | GreedyTopk | RandomPairs | OneShot

STRATEGIES: dict[str, type[Strategy]] = {
    "kinship_topk": KinshipTopk,
    "greedy_topk": GreedyTopk,
    "random_pairs": RandomPairs,
    "one_shot": OneShot,
}

__all__ = [
    "STRATEGIES",
    "Exploration",
    "GreedyTopk",
    "KinshipTopk",
    "OneShot",
    "RandomPairs",
    "Spent",
    "Stop",
    "Strategy",
]
