"""Metrics: kinship as a few lines over Gram matrices, and the figures that cost nothing more.

Definitions: Hu et al., "Exploring Model Kinship for Merging Large Language Models", arXiv 2410.12613. The delta of a
model is its weights minus the base's; the kinship of two models is the similarity of their deltas; that of several is
the mean over all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from src.kinship.grams import Grams, Totals
from src.runtime import plugins
from src.runtime.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A measure of how related models are.

    Attributes:
        name: what the user calls it.
        larger_is_closer: True for similarities, False for distances.
        lowest, highest: the range of its values.
        itself: its value for a model with itself.
        formula: from the totals over the tensors to float64 [n, n].
        about: one line for the user.
    """

    name: str
    larger_is_closer: bool
    lowest: float
    highest: float
    itself: float
    formula: Callable[[Totals], np.ndarray]
    about: str

    def of(self, grams: Grams) -> np.ndarray:
        """Return the kinship of every model to every model: float64 [n, n], symmetric, exact on the diagonal.

        NaN where a pair was not measured, and for a pcc where a delta is the same number everywhere.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.clip(self.formula(grams.total()), self.lowest, self.highest)
        diagonal = np.diagonal(matrix)
        np.fill_diagonal(matrix, np.where(np.isnan(diagonal), np.nan, self.itself))
        return matrix


def _cosine(totals: Totals) -> np.ndarray:
    return _normalized(totals.gram[1:, 1:])


def _pcc(totals: Totals) -> np.ndarray:
    sums = totals.sums[1:]
    return _normalized(totals.gram[1:, 1:] - np.outer(sums, sums) / totals.count)


def _euclidean(totals: Totals) -> np.ndarray:
    inner = totals.gram[1:, 1:]
    squares = np.diagonal(inner)
    return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0))


def _normalized(inner: np.ndarray) -> np.ndarray:
    """Return [n, n] inner products, divided by the lengths of both."""
    lengths = np.sqrt(np.diagonal(inner))
    return inner / np.outer(lengths, lengths)


_ALL = (
    Metric("pcc", True, -1, 1, 1, _pcc, "Pearson correlation of the deltas, -1 to 1; the paper's choice"),
    Metric("cosine", True, -1, 1, 1, _cosine, "cosine of the angle between the deltas, -1 to 1, signed"),
    Metric("euclidean", False, 0, np.inf, 0, _euclidean, "distance between the deltas, 0 or more; small is close"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def metric_of(name: str) -> Metric:
    """Return the metric of that name, or the user's own at that dotted path, which is one of `METRICS` from then on.

    Raises:
        UserError: there is none, with the names of those there are; or nothing that is a metric can be imported.
    """
    if name not in METRICS and plugins.is_dotted(name):
        METRICS[name] = replace(plugins.load(name, Metric), name=name)
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}; expected one of {', '.join(METRICS)}, or a dotted path")
    return METRICS[name]


def kinship_matrix(grams: Grams, metric: str) -> np.ndarray:
    """Return float64 [n, n] in the order of `grams.names`; UserError for an unknown metric."""
    return metric_of(metric).of(grams)


def mean_kinship(matrix: np.ndarray) -> float:
    """Return the mean over all pairs of an [n, n] matrix; NaN for fewer than two models."""
    pairs = matrix[np.triu_indices(len(matrix), k=1)]
    return float(pairs.mean()) if len(pairs) else float("nan")


def delta_norms(grams: Grams) -> dict[str, float]:
    """Return the Euclidean length of every model's delta."""
    lengths = np.sqrt(np.diagonal(grams.total().gram)[1:])
    return dict(zip(grams.names, lengths.tolist(), strict=True))


def shares(grams: Grams, model: str, founders: Sequence[str]) -> dict[str, float]:
    """Return how much of each founder is in a model: the least-squares weights of its delta on the founders' deltas.

    0.62 for math says that the model took 62 % of math's change; the weights need not add up to one. Founders whose
    deltas depend on each other share the weight between them (the shortest solution). UserError for unknown names.
    """
    inner = grams.of([model, *founders]).total().gram[1:, 1:]
    weights = np.linalg.lstsq(inner[1:, 1:], inner[1:, 0], rcond=None)[0]
    return dict(zip(founders, weights.tolist(), strict=True))
