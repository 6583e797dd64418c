"""Which differences are real; what stopping on kinship saves, and what exploring gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from src.evaluation.holdout import SIDES
from src.runtime.errors import UserError
from src.statistics import Difference, EarlyStop, compare_configurations, compare_models, holm, stop_after
from src.strategy.stop import Spent, Stop
from src.study.compare.configurations import (
    IGNORED,
    Configuration,
    configurations,
    differ_only_in,
    differing,
    mean_of,
    winners,
    within,
)
from src.study.compare.runs import Run

FEW = 5
"""Best models up to which every two are compared; beyond, each is compared with the best."""


@dataclass(frozen=True)
class Verdict:
    """How much better the first is than the second, in points of best average."""

    first: str
    second: str
    found: Difference
    adjusted: float
    """p, adjusted for how many were compared (Holm)."""
    side: str = "select"
    """select: what steered the search; holdout: what did not."""


@dataclass(frozen=True)
class Stopping:
    """Savings and cost of the stop on kinship, had it been on, over the runs of one configuration."""

    configuration: str
    runs: int
    stopped: int
    """Runs that it would have ended early."""
    share: float
    """Of all merges, the share that would have been saved, 0 to 1; mean over runs."""
    cost: float
    """What that would have cost in best average, in points; mean over runs."""
    max_cost: float
    """The largest cost of one run."""


@dataclass(frozen=True)
class Exploring:
    """Outcome of the explorations of one configuration's runs."""

    configuration: str
    runs: int
    explorations: int
    records: int
    """Explorations that were better than everything before them."""
    in_descent: int
    """Runs whose best model is, or descends from, an exploration."""
    gain: float
    """Mean merge gain of explorations, in points."""
    gain_else: float
    """Mean merge gain of the other merges of the same runs."""


def compare_pairs(found: Sequence[Configuration], by: Sequence[str] = (), seed: int = 0) -> list[Verdict]:
    """Compare every two configurations on the seeds they share (two at least), on each side that was scored.

    With `by`, only those that differ in nothing but settings under these keys: fewer comparisons show more.
    """
    verdicts: list[Verdict] = []
    for side in SIDES:
        differences = []
        for a, b in combinations(found, 2):
            first, second = a.scores(side), b.scores(side)
            if len({*first} & {*second}) >= 2 and (not by or differ_only_in(a, b, by)):
                differences.append((a.label, b.label, compare_configurations(first, second, seed=seed)))
        verdicts += _adjusted(differences, side)
    return verdicts


def compare_winners(runs: Sequence[Run], seed: int = 0) -> tuple[list[Verdict], list[str]]:
    """Compare the best models of runs on the samples that both were asked; remark on what could not be compared.

    The runs found different models: each more that is compared makes every difference harder to show.
    """
    best = max(runs, key=lambda run: run.average)
    pairs = list(combinations(runs, 2)) if len(runs) <= FEW else [(best, run) for run in runs if run is not best]
    verdicts: list[Verdict] = []
    remarks: list[str] = []
    for side in SIDES:
        differences = []
        for a, b in pairs:
            try:
                if (found := _difference(a, b, side, seed)) is not None:
                    differences.append((a.name, b.name, found))
            except ValueError as error:
                remarks.append(str(error))
        verdicts += _adjusted(differences, side)
    return verdicts, list(dict.fromkeys(remarks))


def _difference(a: Run, b: Run, side: str, seed: int) -> Difference | None:
    """Return the difference of two runs' best models; None where nothing was held out.

    Raises:
        ValueError: the two cannot be compared, and why.
    """
    if a.settings["seed"] != b.settings["seed"]:
        raise ValueError(
            f"{a.name} and {b.name} were asked other samples (seeds {a.settings['seed']}, {b.settings['seed']})"
        )
    first, second = a.samples(side), b.samples(side)
    if first is not None and second is not None:
        try:
            return compare_models(first.samples, second.samples, weights=first.weights, seed=seed)
        except ValueError as error:
            raise ValueError(f"{a.name} and {b.name}: {error}") from error
    if side == "select":
        run = a if first is None else b
        raise ValueError(f"{run.name} has no samples/{run.best}.json")
    return None


def _adjusted(differences: Sequence[tuple[str, str, Difference]], side: str) -> list[Verdict]:
    adjusted = holm([found.p for _, _, found in differences])
    return [Verdict(*one, p, side) for one, p in zip(differences, adjusted, strict=True)]


def stopping(found: Sequence[Configuration]) -> list[Stopping]:
    """Evaluate the stop on kinship for the configurations that ran with it switched off."""
    rows = []
    for one in found:
        ends = [end for run in one.runs.values() if (end := _early_stop(run)) is not None]
        if ends:
            costs, shares = [end.cost for end in ends], [end.share for end in ends]
            early = sum(end.saved > 0 for end in ends)
            rows.append(Stopping(one.label, len(ends), early, mean_of(shares), mean_of(costs), max(costs)))
    return rows


def _early_stop(run: Run) -> EarlyStop | None:
    """Evaluate the default rule on a run that ran without it; None where it does not apply."""
    k = run.settings.get("strategy.k")
    if k is None or run.settings.get("stop.kinship") is not None:
        return None
    rule = Stop(
        None, None, None, unchanged=False, kinship="auto", gain=None, patience=int(run.settings["stop.patience"])
    )
    if rule.threshold(run.kinship) is None:
        return None
    population = run.state.population
    generations = range(1, population.generation + 1)
    held = (g for g in generations if rule.reason(population.until(g), run.kinship, Spent(0, 0), k))
    merges = [model for model in population if not model.founder]
    return stop_after(
        [model.generation for model in merges],
        [math.nan if model.average is None else model.average for model in merges],
        next(held, None),
        founders=[model.average for model in population if model.founder and model.average is not None],
    )


def exploring(found: Sequence[Configuration]) -> list[Exploring]:
    """Count how often exploring paid, for the configurations that explored."""
    rows = []
    for one in found:
        gains: dict[bool, list[float]] = {True: [], False: []}
        explorations = records = descended = 0
        for run in one.runs.values():
            population = run.state.population
            line = {*(model.name for model in population.ancestors(run.best)), run.best}
            best = -math.inf
            for model in population:
                average = -math.inf if model.average is None else model.average
                explorations += model.exploration
                records += model.exploration and average > best
                best = max(best, average)
                if (gain := population.gain(model.name)) is not None:
                    gains[model.exploration].append(gain)
            descended += any(model.exploration and model.name in line for model in population)
        if explorations:
            means = mean_of(gains[True]), mean_of(gains[False])
            rows.append(Exploring(one.label, len(one.runs), explorations, records, descended, *means))
    return rows


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison."""

    runs: list[Run]
    configurations: list[Configuration]
    winners: list[list[Run]]
    """Runs by their best model, the best first."""
    verdicts: list[Verdict]
    paired: str
    """seeds or samples: the pairs of the verdicts."""
    stopping: list[Stopping]
    exploring: list[Exploring]
    remarks: list[str]


def compare(runs: Sequence[Run], remarks: Sequence[str] = (), *, by: Sequence[str] = (), seed: int = 0) -> Comparison:
    """Compare configurations over seeds where they share some, else the best models over samples.

    Raises:
        UserError: `by` names no setting, or leaves nothing to compare.
    """
    for key in by:
        if not any(within(setting, [key]) for run in runs for setting in run.settings):
            raise UserError(f"--by {key}: no run has such a setting; expected strategy, merge, kinship.metric, …")
    found, best = configurations(runs), winners(runs)
    unended = [f"{run.name} has not ended yet: its figures are those so far" for run in runs if not run.state.stopped]
    verdicts, paired, without = compare_pairs(found, by, seed), "seeds", list[str]()
    if by and not verdicts:
        raise UserError(_nothing(found, by))
    if not verdicts:
        different = {group[0].folder for group in best}
        verdicts, without = compare_winners([run for run in runs if run.folder in different], seed)
        without += [f"all {len(runs)} runs have the same best model: there is no difference"] if len(best) == 1 else []
        paired = "samples"
    return Comparison(
        list(runs), found, best, verdicts, paired, stopping(found), exploring(found), [*remarks, *unended, *without]
    )


def _nothing(found: Sequence[Configuration], by: Sequence[str]) -> str:
    """Return what is missing to compare configurations that differ in these settings alone."""
    keys = " and ".join(by)
    alike = [(a, b) for a, b in combinations(found, 2) if differ_only_in(a, b, by)]
    if not alike:
        first, *others = found
        if not others:
            return f"all {len(first.runs)} runs have one configuration: nothing differs in {keys}"
        differ = differing([run for one in (first, others[0]) for run in one.runs.values()])
        besides = [key for key in differ if not key.startswith(IGNORED) and not within(key, by)]
        return (
            f"no two configurations differ in {keys} alone: {first.label} and {others[0].label} differ "
            f"in {', '.join(besides[:3])}{' and more' if len(besides) > 3 else ''}. "
            "Compare runs that are alike in the rest"
        )
    a, b = max(alike, key=lambda pair: len({*pair[0].runs} & {*pair[1].runs}))
    seeds = " and ".join(f"{one.label} has {_counted(one)}" for one in (a, b))
    return (
        f"--by {keys} compares configurations over two seeds or more that both have; {seeds}. Run both with more "
        "(seed=1, seed=2, …), or leave --by out: then best models are compared on the samples that both answered"
    )


def _counted(one: Configuration) -> str:
    return f"seed {', '.join(map(str, one.runs))}"
