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
    from src.kinship.kinds import KINDS, kind_of, layer_of
    from src.kinship.measuring import measure
    from src.kinship.metrics import METRICS, Metric, delta_norms, kinship_matrix, mean_kinship, metric_of, shares
    from src.kinship.prediction import predict, predicted_kinship
    from src.kinship.recipe import NotPredictable
    from src.kinship.rounding import Moved, moved

__all__ = [
    "KINDS",
    "METRICS",
    "Grams",
    "Metric",
    "Moved",
    "NotPredictable",
    "Tensor",
    "Totals",
    "delta_norms",
    "kind_of",
    "kinship_matrix",
    "layer_of",
    "mean_kinship",
    "measure",
    "metric_of",
    "moved",
    "predict",
    "predicted_kinship",
    "shares",
]

_HOMES = {
    "grams": ("Grams", "Tensor", "Totals"),
    "kinds": ("KINDS", "kind_of", "layer_of"),
    "measuring": ("measure",),
    "metrics": ("METRICS", "Metric", "delta_norms", "kinship_matrix", "mean_kinship", "metric_of", "shares"),
    "prediction": ("predict", "predicted_kinship"),
    "recipe": ("NotPredictable",),
    "rounding": ("Moved", "moved"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
