"""What is expected of recipes nobody has tried: pure functions of arrays, guided by kinship.

    space = Space(directions, blocks, grams)                      # weights by direction and block, and their geometry
    process = fit(space, recipes, answers, groups=…)              # a Gaussian process over every answer
    best = choose(process, scorer := Scorer(questions), average(weights))
    proposed = propose(process, scorer, average(weights), Climb(), centre=best, seed=0, count=4)

    questions   how a model's answers make its scores, and a file of them (numpy alone)
    space       recipes, and inner products of what they add to the base
    kernel      of recipes, from these inner products
    likelihood  which hyperparameters make the answers likely
    process     the answers that are expected of a recipe, and how surely
    derivatives what derivatives of scores tell of answers
    scoring     what expected answers are worth
    objectives  what a search is to raise
    proposals   the recipes to make next

Names are looked up on first use, so that reading a file of answers does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.surrogate.objectives import Objective, average, normalised, worst
    from src.surrogate.process import Process, fit
    from src.surrogate.proposals import Climb, Proposed, choose, gain, propose
    from src.surrogate.questions import Answers, Questions
    from src.surrogate.scoring import Scorer
    from src.surrogate.space import Space

__all__ = ["Answers", "Climb", "Objective", "Process", "Proposed", "Questions", "Scorer", "Space", "average", "choose"]
__all__ += ["fit", "gain", "normalised", "propose", "worst"]

_MODULES = ("questions", "space", "process", "scoring", "objectives", "proposals")


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        found = importlib.import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
