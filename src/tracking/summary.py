"""The result of a run: its winner, on what steered the search and on what did not, from the journal's state alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from src.journal import Compared, State, cache_savings
from src.pages.text import gain, plural
from src.population import Skill, neglected, normalised_average, skills, worst
from src.runtime import terminal

OFTEN = 0.05
"""Share of a task's generated answers that may be cut off before the end of a run warns of it."""
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
    compared: Compared | None
    """With the founder that is best on this side, on the same samples; None where that founder is the winner."""


def sides(state: State) -> list[Side]:
    """Return the winner's figures on the selection, and on the holdout where it was scored there."""
    winner = state.population.best(1)[0]
    averages = {"select": (winner.average or 0.0, winner.stderr or 0.0)}
    if (held_out := state.holdout.get(winner.name)) is not None:
        averages["holdout"] = (held_out.average, held_out.stderr)
    found = []
    for side, (average, stderr) in averages.items():
        compared = state.compared.get(side)
        if compared is not None and compared.winner != winner.name:
            compared = None  # of an earlier winner
        name = "selection" if side == "select" else side
        found.append(Side(name, average, average - NORMAL * stderr, average + NORMAL * stderr, compared))
    return found


def quoted(state: State) -> Side | None:
    """Return the side whose figures may be quoted; None where nothing was held out, so that none may."""
    return next((side for side in sides(state) if side.name == "holdout"), None)


def text(state: State) -> str:
    """Return the winner and its figures, in a few lines."""
    winner = state.population.best(1)[0].name
    found = sides(state)
    rows = [
        f"  {side.name:9} {side.average:.2f} ({side.low:.2f} to {side.high:.2f}){_gain(side.compared)}"
        for side in found
    ]
    rows[0] += "; it steered the search" + (": expect less on fresh samples" if len(found) == 1 else "")
    rows[1:] = [f"{row}: the number to quote" for row in rows[1:]]
    if (reason := state.holdout_failures.get(winner)) and len(found) == 1:
        rows.append(f"  holdout   none: {reason}; retry_failed=true tries again")
    after = f"{state.evaluations} evaluations"
    if state.lessons:
        after += f" and {state.lessons[-1].steps} gradient steps, worth {state.learning:.1f} more"
    elif state.derivatives is not None:
        after += f" and derivatives, worth {state.learning:.1f} more"
    return "\n".join([f"best: {winner}, in points with 95 % intervals, after {after}", *rows])


def skills_kept(state: State) -> tuple[str, list[Skill]]:
    """Return the winner's skills and the side that they are of: the holdout, if all founders were scored on it."""
    winner = state.population.best(1)[0]
    scored = {model.name: model for model in state.population.eligible() if model.founder}
    if winner.name in state.holdout and scored.keys() <= state.holdout.keys():
        founders = {name: state.holdout[name].scores for name in scored}
        return "holdout", skills(founders, state.holdout[winner.name].scores)
    return "selection", state.population.skills(winner)


def lost(state: State) -> str | None:
    """Return in words of how many skills a merged winner keeps less than half, and of which least; None of none."""
    found = neglected(skills_kept(state)[1])
    if not found or state.population.best(1)[0].founder:
        return None
    least = found[0]
    kept = f"{least.task} ({least.kept:.0%} of {least.specialist}'s score)"
    return f"{plural(len(found), 'skill')}, least of {kept}"


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
    for line in filter(None, (f"stopped: {state.stopped}", cache_savings([state]), text(state))):
        console.print(line, highlight=False, soft_wrap=True)
    if (table := skills_table(state)) is not None:
        side, found = skills_kept(state)
        share = f"{normalised_average(found):.0f} % of the specialists' scores in the mean over tasks"
        console.print(f"skills kept, on the {side}: {share}", highlight=False, soft_wrap=True)
        console.print(table)
        if skill := lost(state):
            terminal.warn(f"less than half is kept of {skill}; other merge methods may keep more (docs/merging.md)")
    if warning := cut_off(state):
        terminal.warn(warning)
    for path in made:
        console.print(os.path.relpath(path), highlight=False, soft_wrap=True)


def cut_off(state: State) -> str | None:
    """Return a warning of generated answers that were cut off, where they are more than OFTEN of a task's, else None.

    Such a score is of the answers' lengths too: of two models that know as much the one that says less wins.
    """
    often = [(one.answers / one.of, *key, one) for key, one in state.cut_off.items() if one.answers > OFTEN * one.of]
    if not often:
        return None
    _, event, model, task, worst = max(often, key=lambda found: found[0])
    where = " on the holdout" if event == "held_out" else ""
    others = len(often) - 1
    more = f", and more than {OFTEN:.0%} in {others} more cases" if others else ""
    return (
        f"{model}: {worst.words(task)}{where}{more}: what is scored there is how long answers are, too; in a run of "
        f"another name, evaluate.gen_kwargs.max_gen_toks={2 * worst.tokens} gives them more room"
    )


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
    """Return what a tracker is sent at the end."""
    winner = state.population.best(1)[0]
    average, stopped = winner.average or 0.0, state.stopped or ""
    values: dict[str, float | str] = {"best": winner.name, "average/best": average, "stopped": stopped}
    if (side := quoted(state)) is not None:
        values |= {"holdout/best": side.average, "holdout/stderr": state.holdout[winner.name].stderr}
        if (found := side.compared) is not None:
            values |= {"holdout/gain": found.difference, "holdout/gain_low": found.low, "holdout/gain_high": found.high}
            values["holdout/p"] = found.p
    side_of, kept = skills_kept(state)
    if kept:
        lowest = worst(kept)
        values |= {
            f"skills/{side_of}/normalised": normalised_average(kept),
            f"skills/{side_of}/worst": lowest.score,
            f"skills/{side_of}/worst_task": lowest.task,
        }
    return values


def _gain(compared: Compared | None) -> str:
    if compared is None:
        return ""
    return f", {gain(compared.difference, compared.low, compared.high, compared.p)} on {compared.founder}"
