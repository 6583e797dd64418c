"""Pure functions over a run's figures: what they show, and how certain that is. No torch, no files, no clock.

    correlate, relations    correlation of a figure (kinship) with another (merge gain): r, p, interval, n
    saturation              the generation from which merging brought nothing new, by a changepoint
    stop_after, early_stop  what ending earlier would have saved, and cost
    compare_models          two models on the same samples
    compare_configurations  two configurations on the same seeds or families
    holm                    p values adjusted for multiple comparisons

Whatever is drawn at random is drawn from `seed`: the same input gives the same result.
"""

from src.statistics.comparison import Difference, compare_configurations, compare_models, holm
from src.statistics.correlation import METHODS, Correlation, Relation, correlate, relations
from src.statistics.saturation import EarlyStop, Saturation, early_stop, saturation, stop_after

__all__ = [
    "METHODS",
    "Correlation",
    "Difference",
    "EarlyStop",
    "Relation",
    "Saturation",
    "compare_configurations",
    "compare_models",
    "correlate",
    "early_stop",
    "holm",
    "relations",
    "saturation",
    "stop_after",
]
