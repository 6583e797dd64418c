"""Where the time went, and which evaluations were not paid for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from src.pages.look import Drawing, Figure, Section, axis, figure, many, rounded, var
from src.report.story import HOLDOUT, Story

PARTS = (
    ("merged", "merging", "green"),
    ("measured", "measuring", "purple"),
    ("evaluated", "evaluating", "blue"),
    ("waiting", "waiting and the rest", "grey"),
)


def section(story: Story) -> Section:
    """Seconds by generation, and evaluations made, remembered and avoided."""
    totals = {part: sum(getattr(cost, part) or 0.0 for cost in story.costs.values()) for part, _, _ in PARTS}
    whole = sum(totals.values()) or 1.0
    told = ", ".join(f"{name} {lasting(totals[part])} ({totals[part] / whole:.0%})" for part, name, _ in PARTS[:3])
    if any(cost.waiting is not None for cost in story.costs.values()):
        told += f", waiting and the rest (loading, hashing, writing) {lasting(totals['waiting'])}"
    words = [f"{told[:1].upper()}{told[1:]}.", *_avoided(story)]
    panels = [
        [Drawing("time", "time by generation", _time(story))],
        [Drawing("evaluations", "evaluations", _evaluations(story))],
    ]
    return Section("costs", "Where the time went", words, panels)


def lasting(seconds: float) -> str:
    """A duration in words."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def remembered(story: Story) -> int:
    """Evaluations that were known from other runs."""
    return sum(bool(event.get("cached")) for event in story.evaluations)


def next_pairs(story: Story) -> int:
    """The merges that the strategy would have gone on with, had nothing ended the run."""
    return len(story.strategy.propose(story.population, story.kinship)) if story.state.stopped else 0


def most_left(story: Story) -> int | None:
    """The most merges that the budget of generations still had room for; None without such a budget."""
    budget = story.settings["stop"]["generations"]
    if budget is None or not story.state.stopped:
        return None
    return max(0, budget - story.population.generation) * story.strategy.most_proposals(len(story.population))


def _avoided(story: Story) -> list[str]:
    words = []
    known = remembered(story)
    if known:
        paid = [event["seconds"] for event in story.evaluations if not event.get("cached")]
        worth = f", worth about {lasting(known * fmean(paid))}" if paid else ""
        words.append(f"Of {many(len(story.evaluations), 'evaluation')}, {known} came from other runs{worth}.")
    if (ahead := next_pairs(story)) > 0:
        most = most_left(story)
        up_to = f", and up to {most} until the budget of generations is spent" if most and most > ahead else ""
        each = fmean([event["seconds"] for event in story.evaluations if not event.get("cached")] or [math.nan])
        worth = "" if math.isnan(each) else f" (about {lasting(ahead * each)} of evaluating)"
        words.append(f"Stopping saved at least {many(ahead, 'merge')}, the next generation's{worth}{up_to}.")
    return words


def _time(story: Story) -> Figure:
    names = {0: "founders", HOLDOUT: "holdout"}
    x = [names.get(generation, str(generation)) for generation in story.costs]
    data = [
        {
            "type": "bar",
            "name": name,
            "x": x,
            "y": [rounded(getattr(cost, part), 2) for cost in story.costs.values()],
            "hovertemplate": f"%{{x}}: %{{y:.1f}} s {name}<extra></extra>",
            "marker": {"color": var(colour)},
        }
        for part, name, colour in PARTS
        if any(getattr(cost, part) for cost in story.costs.values())
    ]
    return figure(data, xaxis=axis("generation", type="category"), yaxis=axis("seconds"), bargap=0.35)


def _evaluations(story: Story) -> Figure:
    known = remembered(story)
    bars: Mapping[str, tuple[int, str]] = {
        "made": (len(story.evaluations) - known, "blue"),
        "known from other runs": (known, "green"),
        "avoided by stopping, at least": (next_pairs(story), "sky"),
    }
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "y": list(bars),
        "x": [count for count, _ in bars.values()],
        "text": [str(count) for count, _ in bars.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "y+x",
        "marker": {"color": [var(colour) for _, colour in bars.values()]},
        "width": 0.55,
    }
    most = max(count for count, _ in bars.values())
    return figure([trace], xaxis=axis("evaluations", range=[0, 1.12 * most]), yaxis={"autorange": "reversed"})
