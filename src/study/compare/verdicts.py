"""Which differences are real, and what stopping on kinship and exploring came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from src.evaluation.holdout import SIDES
from src.runtime.errors import UserError
from src.statistics import Difference, compare_configurations, compare_models, holm, stop_after
from src.statistics.stopping import EarlyStop
from src.strategy.stop import Spent, Stop
from src.study.compare.configurations import Configuration, configurations, differ_only_in, mean_of
from src.study.compare.runs import Run

FEW = 5
"""Runs up to which every two are compared; beyond, each is compared with the best."""


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
    """What the stop on kinship would have come to, had it been on, over the runs of one configuration."""

    configuration: str
    runs: int
    stopped: int
    """Runs that it would have ended early."""
    share: float
    """Of all merges, the share that would have been saved, 0 to 1; mean over runs."""
    cost: float
    """What that would have cost in best average, in points; mean over runs."""
    dearest: float
    """The largest cost of one run."""


@dataclass(frozen=True)
class Exploring:
    """What the explorations of one configuration's runs came to."""

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


def of_configurations(found: Sequence[Configuration], by: Sequence[str] = (), seed: int = 0) -> list[Verdict]:
    """Compare every two configurations on the seeds they share (two at least), on each side that was scored.

    With `by`, only those that differ in nothing but settings under these keys: fewer comparisons show more.
    """
    verdicts: list[Verdict] = []
    wanted = [(a.label, b.label) for a, b in combinations(found, 2) if not by or differ_only_in(a, b, by)]
    for side in SIDES:
        figures = {one.label: one.averages if side == "select" else one.holdouts for one in found}
        pairs = [(a, b) for a, b in wanted if len(set(figures[a]) & set(figures[b])) >= 2]
        differences = {(a, b): compare_configurations(figures[a], figures[b], seed=seed) for a, b in pairs}
        verdicts += _adjusted(differences, side)
    return verdicts


def of_models(runs: Sequence[Run], seed: int = 0) -> tuple[list[Verdict], list[str]]:
    """Return the best models of runs on the samples that both were asked; and which could not be compared, in words."""
    best = max(runs, key=lambda run: run.average)
    pairs = list(combinations(runs, 2)) if len(runs) <= FEW else [(best, run) for run in runs if run is not best]
    verdicts: list[Verdict] = []
    without: dict[str, None] = {}
    for side in SIDES:
        differences: dict[tuple[str, str], Difference] = {}
        for a, b in pairs:
            found = _of_two(a, b, side, seed)
            if isinstance(found, Difference):
                differences[a.name, b.name] = found
            elif found is not None:
                without[found] = None
        verdicts += _adjusted(differences, side)
    return verdicts, list(without)


def _of_two(a: Run, b: Run, side: str, seed: int) -> Difference | str | None:
    """Return the difference of two runs' best models on a side, or why there is none.

    None where nothing was held out.
    """
    if a.settings["seed"] != b.settings["seed"]:
        return f"{a.name} and {b.name} were asked other samples (seeds {a.settings['seed']}, {b.settings['seed']})"
    first, second = a.samples(side), b.samples(side)
    if first is None or second is None:
        run = a if first is None else b
        return f"{run.name} has no samples/{run.best}.json" if side == "select" else None
    try:
        return compare_models(first[0], second[0], weights=first[1], seed=seed)
    except ValueError as error:
        return f"{a.name} and {b.name}: {error}"


def _adjusted(differences: Mapping[tuple[str, str], Difference], side: str) -> list[Verdict]:
    adjusted = holm([found.p for found in differences.values()])
    return [Verdict(*pair, found, p, side) for (pair, found), p in zip(differences.items(), adjusted, strict=True)]


def stopping(found: Sequence[Configuration]) -> list[Stopping]:
    """For the configurations that ran with the stop on kinship switched off: what it would have saved, and cost."""
    rows = []
    for one in found:
        ends = [end for run in one.runs.values() if (end := _stopped_on_kinship(run)) is not None]
        if ends:
            costs = [end.cost for end in ends]
            early = sum(end.saved > 0 for end in ends)
            rows.append(
                Stopping(one.label, len(ends), early, mean_of([e.share for e in ends]), mean_of(costs), max(costs))
            )
    return rows


def _stopped_on_kinship(run: Run) -> EarlyStop | None:
    """Return the end that the rule as it is by default would have put to a run that ran without it."""
    k = run.settings.get("strategy.k")
    if k is None or run.settings.get("stop.kinship") is not None:
        return None
    rule = Stop(
        None, None, None, unchanged=False, kinship="auto", gain=None, patience=int(run.settings["stop.patience"])
    )
    population = run.state.population
    if rule.threshold(run.kinship) is None:
        return None
    merges = [model for model in population if not model.founder]
    held = (
        g for g in range(1, population.generation + 1) if rule.reason(population.until(g), run.kinship, Spent(0, 0), k)
    )
    return stop_after(
        [model.generation for model in merges],
        [math.nan if model.average is None else model.average for model in merges],
        next(held, None),
        founders=[model.average for model in population if model.founder and model.average is not None],
    )


def exploring(found: Sequence[Configuration]) -> list[Exploring]:
    """For the configurations that explored: how often it paid."""
    rows = []
    for one in found:
        gains: dict[bool, list[float]] = {True: [], False: []}
        records = descended = count = 0
        for run in one.runs.values():
            population = run.state.population
            line = {model.name for model in population.ancestors(run.best)} | {run.best}
            before = -math.inf
            for model in population:
                if (gain := population.gain(model.name)) is not None:
                    gains[model.exploration].append(gain)
                count += model.exploration
                records += model.exploration and (model.average or -math.inf) > before
                before = max(before, model.average or -math.inf)
            descended += any(model.exploration and model.name in line for model in population)
        if count:
            rows.append(
                Exploring(
                    one.label, len(one.runs), count, records, descended, mean_of(gains[True]), mean_of(gains[False])
                )
            )
    return rows


@dataclass(frozen=True)
class Comparison:
    """All that is said of some runs."""

    runs: list[Run]
    configurations: list[Configuration]
    verdicts: list[Verdict]
    paired: str
    """What the verdicts are paired over: seeds or samples."""
    stopping: list[Stopping]
    exploring: list[Exploring]
    remarks: list[str]


def compare(runs: Sequence[Run], remarks: Sequence[str] = (), *, by: Sequence[str] = (), seed: int = 0) -> Comparison:
    """Configurations over seeds where there are seeds to pair over, else the best models over samples.

    Raises:
        UserError: `by` leaves nothing to compare.
    """
    found = configurations(runs)
    unended = [f"{run.name} has not ended yet: its figures are those so far" for run in runs if not run.state.stopped]
    verdicts, paired, without = of_configurations(found, by, seed), "seeds", list[str]()
    if by and not verdicts:
        raise UserError(f"no two configurations with two seeds in common differ in {', '.join(by)} alone")
    if not verdicts:
        verdicts, without = of_models(runs, seed)
        paired = "samples"
    return Comparison(
        list(runs), found, verdicts, paired, stopping(found), exploring(found), [*remarks, *unended, *without]
    )
