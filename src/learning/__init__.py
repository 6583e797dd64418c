"""Learning by gradient: weights of a recipe, on the samples that steer the search.

| module | what it is |
| --- | --- |
| samples | what is learned from, what is kept back, batches, and the loss of each sample |
| gradient | a weighted sum of models, and the gradient of a loss by its weights |
| passes | what goes through the model, in this process or in any that assists |
| base | what both of the following have in common |
| training | the course of learning, look by look |
| lessons | the lessons of a run, one before every candidate |
| derivatives | of scores by a recipe's weights, for a search |
| forecast | what it takes, for the plan |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from src.config import Settings
from src.strategy.recipe_search import RecipeSearch

if TYPE_CHECKING:
    from src.evaluation.evaluator import Evaluator
    from src.models.founders import Found
    from src.strategy.recipe_gradient import Lessons


def learner(settings: Settings) -> Callable[..., Lessons] | None:
    """Return what follows gradients for a run; None where its strategy asks for none."""
    if not settings.strategy.learns:
        return None
    if isinstance(settings.strategy, RecipeSearch):
        from src.learning.derivatives import Differentiator

        return Differentiator
    from src.learning.lessons import Learner  # seconds of imports

    return Learner


def plan(settings: Settings, found: Mapping[str, Found], evaluator: Evaluator | None) -> list[str]:
    """Return what the plan says of gradients: lines; none where the strategy asks for none."""
    if not settings.strategy.learns:
        return []
    from src.learning.forecast import forecast

    return [forecast(settings, found, evaluator)]
