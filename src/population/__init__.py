"""The records that strategies choose from: who descends from whom, and how good each is. No torch, no files.

| module | what it is |
| --- | --- |
| model | a model: its parents, how it was made, its scores |
| proposal | a merge that a strategy proposes |
| prediction | what a search expects |
| skill | what a model keeps of what the founders can |
| population | every model of a run, and what the run has cost |
| kinship | how related models are |
"""

from src.population.kinship import Geometry, KinshipTable, Predictor
from src.population.model import Model
from src.population.population import Objective, Population, Spent
from src.population.prediction import Derivatives, Outlook, Prediction
from src.population.proposal import Key, Proposal
from src.population.skill import Skill, neglected, normalised_average, skills, worst

__all__ = [
    "Derivatives",
    "Geometry",
    "Key",
    "KinshipTable",
    "Model",
    "Objective",
    "Outlook",
    "Population",
    "Prediction",
    "Predictor",
    "Proposal",
    "Skill",
    "Spent",
    "neglected",
    "normalised_average",
    "skills",
    "worst",
]
