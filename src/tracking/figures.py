"""The numbers that a tracker is sent after a generation."""

from __future__ import annotations

import math
from statistics import fmean

from src.journal import State
from src.population import KinshipTable, normalised_average, worst


def of_generation(state: State, kinship: KinshipTable, k: int | None) -> dict[str, float]:
    """Return the numbers of the generation that has closed; what does not exist (the founders' gain) is left out.

    Averages and gains are in points (×100), kinship in the metric's own unit, costs and seconds since the run began;
    skills are those that the best model keeps on what steered; under cache/, the share (0 to 1) that was known from
    other runs; under learning/, what was learned by gradient: the loss, and weights in the mean over blocks.
    """
    population = state.population
    top = population.best(k or len(population))
    youngest = [model for model in population if model.generation == population.generation]
    gains = [gain for model in youngest if (gain := population.gain(model.name)) is not None]
    between_parents = [value for model in youngest if not math.isnan(value := kinship.mean(model.parents))]
    averages = [model.average for model in population.eligible() if model.average is not None]
    best = population.best(1)[0]
    kept = population.skills(best)
    figures = {
        "average/best": max(averages),
        "objective/best": population.value(best),
        "skills/normalised": normalised_average(kept) if kept else math.nan,
        "skills/worst": worst(kept).score if kept else math.nan,
        "average/top_k": fmean(model.average for model in top if model.average is not None),
        "average/mean": fmean(averages),
        "kinship/top_k": kinship.mean([model.name for model in top]),
        "cost/evaluations": state.evaluations,
        "cost/samples": state.samples,
        "cache/evaluations": state.known["evaluated"] / max(state.asked["evaluated"], 1),
        "cache/merges": state.known["merged"] / max(state.asked["merged"], 1),
        "seconds/merge": state.seconds["merged"],
        "seconds/measure": state.seconds["measured"],
        "seconds/evaluate": state.seconds["evaluated"],
    }
    if state.lessons:
        last = state.lessons[-1]
        figures |= {"learning/steps": last.steps, "learning/kept_back": last.kept_back, "cost/learning": state.learning}
        figures |= {"learning/loss": math.nan if last.loss is None else last.loss}
        figures |= {f"learning/weight/{name}": weight for name, weight in last.weights.items()}
    if gains:
        figures |= {"gain/best": max(gains), "gain/mean": fmean(gains)}
    if between_parents:
        figures["kinship/parents"] = fmean(between_parents)
    return {name: value for name, value in figures.items() if not math.isnan(value)}
