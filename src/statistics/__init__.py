"""What the figures of a run say, and how sure that is. Pure functions over numbers: no torch, no files, no clock.

    correlate               how a figure (kinship) goes with another (merge gain): r, p, interval, n
    saturation              the generation from which merging brought nothing new, by a changepoint
    stop_after, early_stop  what ending earlier would have saved, and cost
    average_interval        how far an average could be off, from its samples
    compare_models          two models on the same samples
    compare_configurations  two ways to run, on the same seeds or families
    holm                    p values of several comparisons, made honest

Whatever is drawn at random is drawn from `seed`: the same input gives the same result.
"""

from src.statistics.average import Interval, average_interval
from src.statistics.comparison import Difference, compare_configurations, compare_models, holm
from src.statistics.correlation import METHODS, Correlation, correlate
from src.statistics.saturation import Saturation, saturation
from src.statistics.stopping import EarlyStop, early_stop, stop_after

__all__ = [
    "METHODS",
    "Correlation",
    "Difference",
    "EarlyStop",
    "Interval",
    "Saturation",
    "average_interval",
    "compare_configurations",
    "compare_models",
    "correlate",
    "early_stop",
    "holm",
    "saturation",
    "stop_after",
]
