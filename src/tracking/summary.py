"""How a run ended: its winner, on what steered the search and on what did not, from the journal's state alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from src.journal import State, spared
from src.population import Skill, neglected, normalised_average, skills, worst
from src.runtime import terminal

NORMAL = 1.96
"""Standard errors to either side of an average that make its 95 % interval."""


@dataclass(frozen=True)
class Side:
    """The winner's figures on one side, in points."""

    name: str
    """selection or holdout."""
    average: float
    low: float
    high: float
    """Bounds of the average's 95 % interval."""
    gain: float | None
    """Over the founder that is best on this side, on the same samples; None where that founder is the winner."""
    gain_low: float | None
    gain_high: float | None
    founder: str | None


def sides(state: State) -> list[Side]:
    """The selection, and the holdout where the winner was scored on it."""
    winner = state.population.best(1)[0]
    assert winner.average is not None
    found = [_side(state, "selection", "select", winner.average, winner.stderr or 0.0)]
    if (held_out := state.holdout.get(winner.name)) is not None:
        found.append(_side(state, "holdout", "holdout", held_out.average, held_out.stderr))
    return found


def quoted(state: State) -> Side | None:
    """The side that may be quoted; None where nothing was held out, so that none may."""
    return next((side for side in sides(state) if side.name == "holdout"), None)


def text(state: State) -> str:
    """The winner and its figures, in a few lines."""
    winner = state.population.best(1)[0].name
    found = sides(state)
    rows = [f"  {side.name:9} {side.average:.2f} ({side.low:.2f} to {side.high:.2f}){_gain(side)}" for side in found]
    rows[0] += "; it steered the search" + (": expect less on fresh samples" if len(found) == 1 else "")
    rows[1:] = [f"{row}: the number to quote" for row in rows[1:]]
    if (reason := state.holdout_failures.get(winner)) and len(found) == 1:
        rows.append(f"  holdout   none: {reason}; retry_failed=true tries again")
    return "\n".join([f"best: {winner}, in points with 95 % intervals, after {state.evaluations} evaluations", *rows])


def skills_kept(state: State) -> tuple[str, list[Skill]]:
    """Return the winner's skills and the side that they are of: the holdout, if all founders were scored on it."""
    winner = state.population.best(1)[0]
    scored = {model.name: model for model in state.population.eligible() if model.founder}
    if winner.name in state.holdout and scored.keys() <= state.holdout.keys():
        founders = {name: state.holdout[name].scores for name in scored}
        return "holdout", skills(founders, state.holdout[winner.name].scores)
    return "selection", state.population.skills(winner)


def skills_table(state: State) -> Table | None:
    """Return the winner's skills for a terminal; None where a founder won, which keeps its own."""
    found = skills_kept(state)[1]
    if not found or state.population.best(1)[0].founder:
        return None
    table = Table(box=None, pad_edge=False)
    for column in ("task", "specialist", "its score", "winner", "lost", "kept"):
        table.add_column(column, justify="left" if column in {"task", "specialist"} else "right")
    for one in found:
        kept = f"{one.kept:.0%}"
        table.add_row(one.task, one.specialist, f"{one.best:.2f}", f"{one.score:.2f}", f"{one.lost:.2f}", kept)
    return table


def show(state: State, made: Sequence[Path]) -> None:
    """Print how a run ended, what is left of the founders' skills, and what the run made."""
    console = terminal.console()
    for line in filter(None, (f"stopped: {state.stopped}", spared([state]), text(state))):
        console.print(line, highlight=False, soft_wrap=True)
    if (table := skills_table(state)) is not None:
        side, found = skills_kept(state)
        share = f"{normalised_average(found):.0f} % of the specialists' scores in the mean over tasks"
        console.print(f"skills kept, on the {side}: {share}", highlight=False, soft_wrap=True)
        console.print(table)
        if lost := neglected(found):
            least = f"{lost[0].task} ({lost[0].kept:.0%} of {lost[0].specialist}'s score)"
            terminal.warn(
                f"less than half is kept of {len(lost)} skill{'s'[: len(lost) > 1]}, least of {least}; other merge "
                "methods may keep more (docs/merging.md)"
            )
    for path in made:
        console.print(os.path.relpath(path), highlight=False, soft_wrap=True)


def figures(state: State) -> dict[str, float]:
    """Return the figures that a sweep may go by: the best model's objective, in points, and what it took."""
    spent = state.spent
    return {
        "best": state.population.value(state.population.best(1)[0]),
        "evaluations": spent.evaluations,
        "samples": state.samples,
        "hours": spent.hours,
    }


def summary(state: State) -> dict[str, float | str]:
    """What a tracker is told at the end."""
    winner = state.population.best(1)[0]
    told: dict[str, float | str] = {
        "best": winner.name,
        "average/best": winner.average or 0.0,
        "stopped": state.stopped or "",
    }
    if (side := quoted(state)) is not None:
        told |= {"holdout/best": side.average, "holdout/stderr": state.holdout[winner.name].stderr}
        if side.gain is not None and side.gain_low is not None and side.gain_high is not None:
            told |= {"holdout/gain": side.gain, "holdout/gain_low": side.gain_low, "holdout/gain_high": side.gain_high}
    side_of, found = skills_kept(state)
    if found:
        lowest = worst(found)
        told |= {
            f"skills/{side_of}/normalised": normalised_average(found),
            f"skills/{side_of}/worst": lowest.score,
            f"skills/{side_of}/worst_task": lowest.task,
        }
    return told


def _gain(side: Side) -> str:
    if side.gain is None:
        return ""
    return f", {side.gain:+.2f} ({side.gain_low:+.2f} to {side.gain_high:+.2f}) on {side.founder}"


def _side(state: State, name: str, side: str, average: float, stderr: float) -> Side:
    compared = state.compared.get(side)
    if compared is not None and compared.winner != state.population.best(1)[0].name:
        compared = None  # of a winner before this one
    return Side(
        name,
        average,
        average - NORMAL * stderr,
        average + NORMAL * stderr,
        compared.difference if compared else None,
        compared.low if compared else None,
        compared.high if compared else None,
        compared.founder if compared else None,
    )
