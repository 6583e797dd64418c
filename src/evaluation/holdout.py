"""The honest winner: what the best of many is worth on what did not steer the search (docs/holdout.md).

place          where the scores of single samples lie, by side
samples        what lies there, if it is what the journal tells of
compare        the winner and the best founder, on the same samples
winners_curse  by how much selection overstates the winner, over several runs
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from src.journal import Compared, State
from src.runtime import checksums
from src.runtime.errors import UserError
from src.statistics import compare_configurations, compare_models
from src.statistics.average import Samples

SIDES = ("select", "holdout")
"""What steers the search, and what is kept from it until the end."""


def place(folder: Path, model: str, side: str) -> Path:
    """The file of a model's single samples within a run's folder."""
    return folder / "samples" / ("holdout" if side == "holdout" else "") / f"{model}.json"


@dataclass(frozen=True)
class Scored:
    """A model's samples on one side."""

    average: float
    """What the tasks' weights make of them, in points."""
    samples: Samples
    """The score of each, by lm-eval task and document."""
    weights: Mapping[str, float]
    """What each lm-eval task counts."""


_SCORED = TypeAdapter(Scored)


def samples(folder: Path, state: State, model: str, side: str) -> Scored:
    """Read a model's samples from a run's folder.

    Raises:
        OSError: they are not there, or the disk does not give them back.
        ValueError: the file is not what was written, or of another evaluation than the journal tells of.
    """
    found = _SCORED.validate_python(checksums.load(place(folder, model, side).read_bytes()))
    told = state.holdout.get(model) if side == "holdout" else state.population[model]
    if told is None or found.average != told.average:
        raise ValueError("it is of another evaluation than the journal tells of")
    return found


def averages(state: State, side: str) -> dict[str, float]:
    """The average of every model that was scored on a side and can be a parent, oldest first."""
    eligible = {model.name: model.average for model in state.population.eligible() if model.average is not None}
    if side == "select":
        return eligible
    return {name: state.holdout[name].average for name in eligible if name in state.holdout}


def rivals(state: State, side: str) -> tuple[str, str] | None:
    """The winner and the founder that is best on this side; None where they are one, or nothing is known.

    The founder is chosen on the side itself: on the holdout that favours the founders a little, never the winner.
    """
    winner = state.population.best(1)[0].name
    scored = averages(state, side)
    founder = max((name for name in scored if state.population[name].founder), key=scored.__getitem__, default=winner)
    return (winner, founder) if winner in scored and winner != founder else None


def lost(folder: Path, state: State, side: str) -> list[str]:
    """Who of the rivals has no samples that can be believed: somebody deleted, changed or cut the file."""
    found = []
    for name in rivals(state, side) or ():
        try:
            samples(folder, state, name, side)
        except (OSError, ValueError):
            found.append(name)
    return found


def compare(folder: Path, state: State, side: str) -> Compared | None:
    """The rivals on the same samples; None where there are none, or no samples to compare them on."""
    if (found := rivals(state, side)) is None:
        return None
    winner, founder = found
    try:
        first, second = (samples(folder, state, name, side) for name in found)
        difference = compare_models(first.samples, second.samples, weights=first.weights)
    except (OSError, ValueError):  # the tasks have no scores by sample, say
        return None
    fields: dict[str, Any] = asdict(difference)
    return Compared(winner, founder, samples=fields.pop("n"), **fields)


@dataclass(frozen=True)
class Curse:
    """By how much the search overstates its winner, in points."""

    overstated: float
    """Selection score minus holdout score of the winner, less the same of the other founders; mean over the runs."""
    low: float
    high: float
    """Bounds of the 95 % interval, Student's over runs."""
    p: float
    """Two-sided, of no overstatement."""
    runs: int
    winner: float
    """Selection score minus holdout score of the winner, mean over the runs."""
    founders: float
    """The same of the founders that did not win: how much easier the selection's samples are."""


def winners_curse(states: Mapping[str, State]) -> Curse:
    """Measure the winner's curse over finished runs, by any name, each of another family.

    The two sides of a run differ in difficulty, by chance. The founders that did not win were not picked by either, so
    the mean of their differences is the control.

    Raises:
        ValueError: fewer than two of the runs have holdout scores.
    """
    drops = {name: found for name, state in states.items() if (found := drop(state)) is not None}
    winners: dict[Hashable, float] = {name: winner for name, (winner, _) in drops.items()}
    founders: dict[Hashable, float] = {name: others for name, (_, others) in drops.items()}
    over = compare_configurations(winners, founders)
    return Curse(
        over.difference, over.low, over.high, over.p, over.n, fmean(winners.values()), fmean(founders.values())
    )


def drop(state: State) -> tuple[float, float] | None:
    """Return selection minus holdout, of the winner and, on average, of the other founders; None if unknown."""
    select, holdout = averages(state, "select"), averages(state, "holdout")
    if not select:
        return None
    winner = state.population.best(1)[0]
    founders = [name for name in holdout if state.population[name].founder and name != winner.name]
    if winner.name not in holdout or not founders:
        return None
    return select[winner.name] - holdout[winner.name], fmean(select[name] - holdout[name] for name in founders)


def table(states: Mapping[str, State]) -> str:
    """Return the winner's curse in Markdown: a row a run, and the mean with its interval.

    Raises:
        UserError: fewer than two of the runs have holdout scores.
    """
    rows = [
        "| run | winner | selection | holdout | selection − holdout, winner | the same, founders |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, state in states.items():
        if (found := drop(state)) is not None:
            winner = state.population.best(1)[0]
            scores = f"{winner.average:.2f} | {state.holdout[winner.name].average:.2f}"
            rows.append(f"| {name} | {winner.name} | {scores} | {found[0]:+.2f} | {found[1]:+.2f} |")
    try:
        curse = winners_curse(states)
    except ValueError as error:
        raise UserError(f"the winner's curse takes finished runs with evaluate.holdout=…; {error}") from error
    rows.append(f"| mean of {curse.runs} | | | | {curse.winner:+.2f} | {curse.founders:+.2f} |")
    return "\n".join(rows) + (
        f"\n\nThe selection score overstates the winner by {curse.overstated:+.2f} points "
        f"({curse.low:+.2f} to {curse.high:+.2f}, 95 %; p = {curse.p:.3f})."
    )
