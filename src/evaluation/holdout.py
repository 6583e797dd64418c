"""The winner's scores on samples that did not steer the search, and on those that did (docs/holdout.md)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from src.evaluation.responses import agree, scores_of, spread
from src.journal import Compared, HeldOut, State
from src.population import Model
from src.runtime import checksums
from src.runtime.errors import UserError
from src.statistics import Difference, compare_configurations, compare_models
from src.statistics.average import Samples
from src.surrogate.questions import Answers

SIDES = ("select", "holdout")
"""What steers the search, and what is kept from it until the end."""


def place(folder: Path, model: str, side: str, part: int | None = None) -> Path:
    """Return the file of a model's per-sample scores within a run's folder; its answers lie beside it, as .npz.

    `part` is which part of the selection's samples they are of: a model that is asked everything later keeps both.
    """
    inner = "holdout" if side == "holdout" else "" if part is None else "parts"
    return folder / "samples" / inner / f"{model}.json"


def places(folder: Path) -> list[Path]:
    """Return all folders within a run's that such files lie in."""
    return [place(folder, "", side, part).parent for side, part in (("select", None), ("select", 0), ("holdout", None))]


@dataclass(frozen=True)
class Scored:
    """A model's samples on one side."""

    average: float
    """What the tasks' weights make of them, in points."""
    samples: Samples
    """The score of each, by lm-eval task and document."""
    weights: Mapping[str, float]
    """What each lm-eval task counts."""


def samples(folder: Path, state: State, model: str, side: str) -> Scored:
    """Read a model's samples from a run's folder.

    Raises:
        OSError: they are not there, or the disk does not give them back.
        ValueError: the file is not what was written, or of another evaluation than the journal records.
    """
    return TypeAdapter(Scored).validate_python(_checked(folder, state, model, side)[0])


def answers(folder: Path, state: State, model: str, side: str = "select") -> Answers:
    """Read a model's answers from a run's folder, as `samples`: to the part of the questions that it was asked."""
    content, recorded = _checked(folder, state, model, side)
    found = Answers.load(_place(folder, state, model, side).with_suffix(".npz"), key=str(content.get("key")))
    if not agree(scores_of(found), recorded.scores):
        raise ValueError("the answers make other scores than the journal records")
    return found


class Answered:
    """What the models of a run answered of all that steers the search; each file is read once."""

    def __init__(self, folder: Path, state: State) -> None:
        """Look in the folder of a run, of which `state` says what is known by now."""
        self._folder, self._state = folder, state
        self._known: dict[tuple[str, int | None], Answers] = {}

    def __call__(self, name: str) -> Answers:
        """Return a model's answers; NaN for what it was not asked.

        Raises:
            OSError, ValueError, KeyError: as `answers` does; another evaluation mends it.
        """
        key = name, self._state.model(name).part
        if key not in self._known:
            found = answers(self._folder, self._state, name)
            if key[1] is not None and not self._known:
                self(next(model.name for model in self._state.given.values() if model.average is not None))
            for other in self._known.values():  # one copy of the questions serves all models
                found = spread(found, other.questions)
                break
            self._known[key] = found
        return self._known[key]


def _place(folder: Path, state: State, model: str, side: str) -> Path:
    return place(folder, model, side, None if side == "holdout" else state.model(model).part)


def _checked(folder: Path, state: State, model: str, side: str) -> tuple[dict[str, Any], HeldOut | Model]:
    """Return what lies there, and what the journal records of it; they have the same average."""
    content = checksums.load(_place(folder, state, model, side).read_bytes())
    recorded = state.holdout.get(model) if side == "holdout" else state.model(model)
    if recorded is None or content.get("average") != recorded.average:
        raise ValueError("it is of another evaluation than the journal records")
    return content, recorded


def averages(state: State, side: str) -> dict[str, float]:
    """Return the average of every eligible model that was scored on a side, oldest first."""
    eligible = {model.name: model.average for model in state.population.eligible() if model.average is not None}
    if side == "select":
        return eligible
    return {name: state.holdout[name].average for name in eligible if name in state.holdout}


def winner_and_best_founder(state: State, side: str) -> tuple[str, str] | None:
    """Return the winner and the best founder on this side; None where they are one, or nothing is known.

    The founder is chosen on the side itself: on the holdout that favours the founders a little, never the winner.
    """
    winner = state.population.best(1)[0].name
    scored = averages(state, side)
    founder = max((name for name in scored if state.population[name].founder), key=scored.__getitem__, default=winner)
    return (winner, founder) if winner in scored and winner != founder else None


def lost(folder: Path, state: State, side: str) -> list[str]:
    """Return which of winner and best founder have no valid samples: deleted, changed or cut files."""
    found = []
    for name in winner_and_best_founder(state, side) or ():
        try:
            samples(folder, state, name, side)
        except (OSError, ValueError):
            found.append(name)
    return found


def compare(folder: Path, state: State, side: str) -> Compared | None:
    """Compare winner and best founder on the same samples; return None where there are none to compare."""
    if (found := winner_and_best_founder(state, side)) is None:
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
    """How much the search overstates its winner, in points."""

    overstated: Difference
    """`winner` minus `founders` over the runs, with its interval (95 %, Student's) and p."""
    winner: float
    """Selection score minus holdout score of the winner, mean over the runs."""
    founders: float
    """The same of the founders that did not win: how much easier the selection's samples are."""


def winners_curse(states: Mapping[str, State]) -> Curse:
    """Estimate the winner's curse over finished runs, each of another family.

    The two sides of a run differ in difficulty, by chance. The founders that did not win were not picked by either, so
    the mean of their differences is the control.

    Raises:
        ValueError: fewer than two of the runs have holdout scores.
    """
    drops = {name: found for name, state in states.items() if (found := drop(state)) is not None}
    winners: dict[Hashable, float] = {name: winner for name, (winner, _) in drops.items()}
    founders: dict[Hashable, float] = {name: others for name, (_, others) in drops.items()}
    difference = compare_configurations(winners, founders)
    return Curse(difference, fmean(winners.values()), fmean(founders.values()))


def drop(state: State) -> tuple[float, float] | None:
    """Return selection minus holdout score of the winner, and the other founders' mean; None if unknown."""
    select, holdout = averages(state, "select"), averages(state, "holdout")
    if not select:
        return None
    winner = state.population.best(1)[0]
    founders = [name for name in holdout if state.population[name].founder and name != winner.name]
    if winner.name not in holdout or not founders:
        return None
    return select[winner.name] - holdout[winner.name], fmean(select[name] - holdout[name] for name in founders)


def table(states: Mapping[str, State]) -> str:
    """Return the winner's curse in Markdown: a row a run, and the mean, of two runs at least, with its interval."""
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
    over = curse.overstated
    rows.append(f"| mean of {over.n} | | | | {curse.winner:+.2f} | {curse.founders:+.2f} |")
    return "\n".join(rows) + (
        f"\n\nThe selection score overstates the winner by {over.difference:+.2f} points "
        f"({over.low:+.2f} to {over.high:+.2f}, 95 %; p = {over.p:.3f})."
    )
