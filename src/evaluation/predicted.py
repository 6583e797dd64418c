"""What a run's answers tell of the recipes that it never tried, from its folder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.evaluation.holdout import Answered
from src.journal import State
from src.population import Geometry
from src.runtime.errors import UserError
from src.runtime.names import BASE
from src.strategy import RecipeSearch, Strategy

if TYPE_CHECKING:
    from src.strategy.problem import Problem

FEWEST = 3
"""Models that have to be evaluated, the base among them, before anything is predicted."""


def problem(folder: Path, state: State, strategy: Strategy, geometry: Geometry | None) -> Problem:
    """Return the process over the answers of all models that the run in a folder has evaluated, fitted.

    `geometry` is that of its models (kinship.npz); None where that is not there.

    Raises:
        UserError: a strategy that predicts nothing, too few models, or answers or kinship that are not there.
    """
    if not isinstance(strategy, RecipeSearch):
        name = (state.started or {})["settings"]["strategy"]["name"]
        raise UserError(f"{folder.name} is a run of strategy={name}, which predicts nothing; take one of recipe_search")
    base = state.base is not None and state.base.average is not None
    if not base or len(eligible := state.population.eligible()) + 1 < FEWEST:
        raise UserError(f"{folder.name}: the base and two models have to be evaluated first; run its command again")
    founders = [model.name for model in eligible if model.founder]
    if geometry is None or not {*founders} <= {*geometry.names}:
        path = folder / "kinship.npz"
        raise UserError(f"{path} is not there, or lacks a founder; the run's own command measures it again")
    answers = Answered(folder, state)
    for name in (BASE, *(model.name for model in eligible)):
        try:
            answers(name)
        except (OSError, ValueError) as error:
            why = "no file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
            raise UserError(
                f"what {name} answered is not in {folder / 'samples'} ({why}); without it nothing is predicted"
            ) from error
    population = replace(state.population, answers=answers)
    found = strategy.problem(population, state.table("", True, geometry=geometry))
    assert found is not None
    return found
