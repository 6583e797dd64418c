"""The settings of a run: frozen, validated, and complained about here, before anything heavy is imported.

settings   all of them, and `read`, which makes them of what Hydra composed
founders   whom to evolve
merge      how parents become an offspring, and how relatedness is measured
evaluate   how good a model is
sweep      a search over configurations
"""

from src.config.evaluate import Evaluate, Task
from src.config.founders import Founders, Zoo
from src.config.merge import METRICS, Kinship, Lines, Merge, Treatment
from src.config.settings import Cache, Publish, Settings, Track, Workers, flat, read
from src.config.sweep import DIRECTIONS, Objective, Parameter, Prune, Sweep, Trial
