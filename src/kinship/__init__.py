"""Kinship: from checkpoints on disk to a matrix of how related they are.

base, models = open_checkpoint(BASE), {"math": open_checkpoint(A), "words": open_checkpoint(B)}
grams = measure(base, models)             # one pass over the weights; save it, extend it, select from it
matrix = kinship_matrix(grams, "pcc")     # float64 [2, 2]
"""

from src.kinship.grams import Grams, Tensor, Totals
from src.kinship.kinds import KINDS, kind_of, layer_of
from src.kinship.measure import measure
from src.kinship.metrics import METRICS, Metric, delta_norms, kinship_matrix, mean_kinship, metric_of, shares
from src.kinship.predict import predict
from src.kinship.recipe import NotPredictable

__all__ = [
    "KINDS",
    "METRICS",
    "Grams",
    "Metric",
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
    "predict",
    "shares",
]
