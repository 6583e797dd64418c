"""What a search expects, and what it expects it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a strategy expects a model's value to be (see `Objective`), in points, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """What a search expects once a generation is known."""

    values: Mapping[str, float]
    """Of models by name: what their values are taken to be, in points; they are ranked by it."""
    gain: float
    """What is still expected to be gained on the best of them, in points; 0 or more."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Of a model's scores by the weights of its recipe."""

    model: str
    directions: tuple[str, ...]
    """Names of the n models that the recipe weighs."""
    tasks: tuple[str, ...]
    """Of which there are any: those of choices."""
    values: np.ndarray
    """float64 [tasks, n, B]: of the mean probability of the right choice (0 to 1) by direction and block."""
