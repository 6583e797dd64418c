"""How a run ended, in words: what was evolved, the winner, its gain, the number to quote, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from src.evaluation import benchmarks
from src.pages.look import Table, many, span
from src.report.ascent import SIGMAS
from src.report.costs import lasting
from src.report.story import Story
from src.statistics import compare_models
from src.tracking import summary
from src.tracking.table import rows


@dataclass(frozen=True)
class Tile:
    """One figure worth a glance."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Gain:
    """What the winner has on the best founder, in points: on the holdout where there is one, else where it steered."""

    founder: str
    points: float
    low: float
    high: float
    held_out: bool
    """Whether nothing was chosen on these samples."""
    paired: bool
    """Whether the interval is from the same samples; otherwise from two standard errors."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves no gain out."""
        return self.low > 0


def gain(story: Story) -> Gain | None:
    """The winner's gain on the best founder; None where a founder won."""
    if story.winner.founder or not story.founders:
        return None
    for side in ("holdout", "select"):
        known = story.state.compared.get(side)
        if known is not None and known.winner == story.winner.name:
            return Gain(known.founder, known.difference, known.low, known.high, side == "holdout", True)
    best = story.founders[0]
    mine, theirs = (story.samples.get(model.name) for model in (story.winner, best))
    if mine and theirs and set(mine) == set(theirs):
        found = compare_models(mine, theirs, weights=story.weights)
        return Gain(best.name, found.difference, found.low, found.high, False, True)
    points = (story.winner.average or 0.0) - (best.average or 0.0)
    half = SIGMAS * math.hypot(story.winner.stderr or 0.0, best.stderr or 0.0)
    return Gain(best.name, points, points - half, points + half, False, False)


def tiles(story: Story) -> list[Tile]:
    """A glance at the run."""
    winner, merges = story.winner, [model for model in story.population if model.parents]
    error = SIGMAS * (winner.stderr or 0.0)
    found = gain(story)
    gained = Tile("gain on the best founder", "none", "no merge beats it")
    if found:
        side = " there" if found.held_out else ""
        gained = Tile(
            f"gain on the best founder{side}",
            f"{found.points:+.2f}",
            f"95 %: {span(found.low, found.high)}, on {found.founder}",
        )
    explorations = sum(model.exploration for model in merges)
    spent = sum(story.state.seconds.values())
    held = summary.quoted(story.state)
    return [
        Tile("winner", winner.name, " × ".join(winner.parents) or "a founder"),
        *([Tile("on the holdout: quote this", f"{held.average:.2f}", _within(held.low, held.high))] if held else []),
        gained,
        Tile("on what steered the search", f"{winner.average:.2f}", f"± {error:.2f} (95 %)"),
        Tile(
            "merges",
            str(len(merges)),
            f"{explorations} of them explorations, in {many(story.population.generation, 'generation')}",
        ),
        Tile("evaluations", str(story.state.evaluations), f"{lasting(spent)} of work in all"),
    ]


def words(story: Story) -> list[str]:
    """The run in a paragraph or two."""
    strategy, merge = story.settings["strategy"]["name"], story.settings["merge"]["method"]
    base = story.state.sources.get("base", "the base")
    ended = f"It ended: {story.state.stopped}." if story.state.stopped else "It has not ended yet."
    return [
        f"{len(story.founders)} fine-tunes of {base} were evolved by {strategy}, merging with {merge} and going by "
        f"{story.metric.name}. {ended}",
        *_quote(story),
    ]


def _quote(story: Story) -> list[str]:
    if not story.offspring:
        return ["No offspring has been scored yet."]
    if story.winner.founder:
        return [f"The best model is the founder {story.winner.name}: none of the merges beats it."]
    steered = (
        f"{story.winner.average:.2f} on what steered the search was the best of {len(story.population)}, and such a "
        "figure is too high on average"
    )
    held, found = summary.quoted(story.state), gain(story)
    if held is None:
        return [f"Quote another score: {steered}. evaluate.holdout=0.5 keeps half of the samples for the end."]
    gained = ""
    if found and found.held_out:
        gained = f", {found.points:+.2f} ({span(found.low, found.high)}) on {found.founder}, the best founder there"
    return [
        f"The number to quote is {story.winner.name}'s {held.average:.2f} on the holdout "
        f"({_within(held.low, held.high)}){gained}. {steered}."
    ]


def _within(low: float, high: float) -> str:
    return f"95 %: {low:.2f} to {high:.2f}"


def warnings(story: Story) -> list[str]:
    """What a reader should know before trusting the figures."""
    found = gain(story)
    said = [text] if (text := benchmarks.warning(story.settings["evaluate"])) else []
    if found and not found.beyond_chance:
        side = "on the holdout" if found.held_out else "on what steered the search"
        said.append(
            f"The gain on {found.founder} {side} is within chance: its interval ({span(found.low, found.high)}) has 0."
        )
    if found and not found.paired:
        said.append("The scores of single samples are not beside the journal: intervals are wider than they need be.")
    failed = [model for model in story.population if model.failure is not None]
    if failed:
        named = ", ".join(model.name for model in failed[:5]) + (" and more" if len(failed) > 5 else "")
        said.append(f"{many(len(failed), 'model')} failed and left out: {named}. The first: {failed[0].failure}")
    if story.grams is None:
        said.append("kinship.npz is not beside the journal: what needs single layers or shares is left out.")
    return [*said, *story.troubles]


def models(story: Story) -> Table:
    """Everybody, oldest first."""
    columns = ("model", "parents", "average", "± (se)", "gain", f"{story.metric.name} of the parents")
    found = rows(story.population, story.kinship, story.shown)
    lines = [
        (
            name,
            parents,
            _number(average, ".2f") or "failed",
            _number(error, ".2f"),
            _number(grown, "+.2f"),
            _number(related, ".3f"),
        )
        for name, parents, average, error, grown, related in found
    ]
    champions = {model.name for model in story.line}
    marked = frozenset(i for i, line in enumerate(lines) if line[0] in champions)
    return Table(columns, lines, marked, words=frozenset({0, 1}))


def recipe(story: Story) -> Sequence[str]:
    """How the winner descends from the founders, a line a merge."""
    return [f"{model.name} = {' × '.join(model.parents)}" for model in story.line if model.parents]


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
