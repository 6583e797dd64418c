"""Kinship: from checkpoints on disk to a matrix of how related they are.

    base, models = open_checkpoint(BASE), {"math": open_checkpoint(A), "words": open_checkpoint(B)}
    grams = measure(base, models)             # one pass over the weights; save it, extend it, select from it
    matrix = kinship_matrix(grams, "pcc")     # float64 [2, 2]
    planned = predict(grams, recipe)          # with a row for an offspring that is only planned

Names are looked up on first use, so that `python -m src.kinship --help` does not wait for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.kinship.grams import Grams, Tensor, Totals
    from src.kinship.measuring import measure
    from src.kinship.metrics import METRICS, Metric, delta_norms, kinship_matrix, mean_kinship, metric_of, shares
    from src.kinship.prediction import predict, predicted_kinship
    from src.kinship.recipe import NotPredictable
    from src.kinship.rounding import Moved, moved

__all__ = ["METRICS", "Grams", "Metric", "Moved", "NotPredictable", "Tensor", "Totals", "delta_norms", "kinship_matrix"]
__all__ += ["mean_kinship", "measure", "metric_of", "moved", "predict", "predicted_kinship", "shares"]

_MODULES = ("grams", "metrics", "measuring", "prediction", "recipe", "rounding")


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        found = importlib.import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
