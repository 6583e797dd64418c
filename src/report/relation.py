"""Kinship against merge gain, and what an end at saturation would have changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.pages.look import Drawing, Figure, Section, Table, axis, chance, figure, many, rounded, span, thinned, var
from src.population import Model
from src.report.ascent import KINDS, POINTS, hover, kind, of_points
from src.report.relatives import threshold
from src.report.story import Story
from src.statistics import METHODS, Correlation, correlate, early_stop, saturation, stop_after
from src.statistics.saturation import ALPHA

LEAST = 3
"""Merges that a correlation needs."""


def section(story: Story) -> Section:
    """Whether unrelated parents made better offspring in this run."""
    merges, kinship, gains = _merges(story)
    title = "Does kinship tell the gain?"
    if len(merges) < LEAST:
        words = [f"{many(len(merges), 'merge')} of measured parents: too few for a correlation, which needs {LEAST}."]
        return Section("relation", title, words)
    targets = {"gain": gains, "|gain|": [abs(gain) for gain in gains]}
    found = {(name, method): correlate(kinship, y, method) for name, y in targets.items() for method in METHODS}
    words = [_summary(found["|gain|", "pearson"], story.metric.name), _stages(story), *_stops(story)]
    if left_out := of_points(len(merges)):
        words.append(f"The figures of all merges show some{left_out}; lines and figures in words are of all.")
    panels = [
        [Drawing("kinship-gain", "gain", _drawn(story, merges, kinship, targets["gain"], "merge gain, points"))],
        [Drawing("kinship-abs-gain", "size of the gain", _drawn(story, merges, kinship, targets["|gain|"], "|gain|"))],
    ]
    return Section("relation", title, words, panels, [_table(story.metric.name, found)])


def _merges(story: Story) -> tuple[list[Model], list[float], list[float]]:
    """The offspring of which gain and kinship of the parents are known, and both."""
    merges, kinship, gains = [], [], []
    for model in story.offspring:
        gain, related = story.population.gain(model.name), story.kinship.mean(model.parents)
        if gain is not None and not math.isnan(related):
            merges.append(model)
            kinship.append(related)
            gains.append(gain)
    return merges, kinship, gains


def _summary(found: Correlation, metric: str) -> str:
    if math.isnan(found.r):
        return "Nothing varies here, so nothing correlates."
    verdict = "beyond chance" if found.p < 0.05 else "which chance alone could do"
    return (
        f"Between the parents' {metric} and the size of the gain, r is {found.r:+.2f} (95 % interval "
        f"{span(found.low, found.high)}, {chance(found.p)}, n {found.n} merges), {verdict}. Merges that share a parent "
        "are not independent, so true intervals are wider."
    )


def _stages(story: Story) -> str:
    merges, kinship, gains = _merges(story)
    closer = story.metric.larger_is_closer
    found = saturation([model.generation for model in merges], gains, kinship, larger_is_closer=closer)
    if found.generation is None and found.p <= ALPHA:
        return f"The merges changed as the run went on ({chance(found.p)}), but |gain| did not fall while kinship rose."
    if found.generation is None:
        return f"No generation parts learning from saturation beyond chance (changepoint on ranks, {chance(found.p)})."
    generations = [model.generation for model in story.offspring]
    averages = [model.average or math.nan for model in story.offspring]
    stop = stop_after(generations, averages, found.generation, founders=[m.average or 0.0 for m in story.founders])
    saved = f" Ending there would have saved {stop.saved} of {stop.merges} merges" if stop.saved else ""
    saved += f" and cost {stop.cost:.2f} points." if stop.saved else ""
    return (
        f"Saturated from generation {found.generation} on (changepoint on ranks, {chance(found.p)}): mean |gain| "
        f"{found.gain_before:.2f} before and {found.gain_after:.2f} after, mean kinship {found.kinship_before:.2f} "
        f"before and {found.kinship_after:.2f} after.{saved}"
    )


def _stops(story: Story) -> list[str]:
    """What the run's own rule on kinship would have saved, where the run went on beyond it."""
    level, patience = threshold(story), story.settings["stop"]["patience"]
    if level is None or not story.top_kinship:
        return []
    stop = early_stop(
        [model.generation for model in story.offspring],
        [model.average or math.nan for model in story.offspring],
        [story.top_kinship.get(model.generation, math.nan) for model in story.offspring],
        threshold=level,
        patience=patience,
        larger_is_closer=story.metric.larger_is_closer,
        founders=[model.average or 0.0 for model in story.founders],
    )
    if not stop.saved:
        return []
    return [
        f"A stop at a mean kinship of {level:g} within the k best, for {patience} generations, would have ended the "
        f"run after generation {stop.generation}, saved {stop.saved} of {stop.merges} merges and cost "
        f"{stop.cost:.2f} points."
    ]


def _drawn(story: Story, merges: Sequence[Model], x: Sequence[float], y: Sequence[float], title: str) -> Figure:
    data: list[dict[str, Any]] = []
    if np.ptp(x) > 0:
        slope, height = np.polyfit(x, y, 1)
        ends = [min(x), max(x)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "least squares",
                "x": [rounded(end) for end in ends],
                "y": [rounded(slope * end + height) for end in ends],
                "line": {"color": var("quiet"), "dash": "dash", "width": 1.5},
                "hoverinfo": "skip",
            }
        )
    shown = thinned(range(len(merges)), POINTS)
    for number, (name, symbol, colour) in enumerate(KINDS):
        some = [i for i in shown if kind(merges[i]) == number]
        if some:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [rounded(x[i]) for i in some],
                    "y": [rounded(y[i]) for i in some],
                    "text": [hover(story, merges[i]) for i in some],
                    "hoverinfo": "text",
                    "marker": {
                        "symbol": symbol,
                        "size": 10,
                        "color": var(colour),
                        "opacity": 0.85,
                        "line": {"color": var("card"), "width": 1},
                    },
                }
            )
    return figure(data, xaxis=axis(f"kinship of the parents ({story.metric.name})"), yaxis=axis(title, zeroline=True))


def _table(metric: str, found: dict[tuple[str, str], Correlation]) -> Table:
    rows = [
        (
            f"{metric} and {target}",
            method,
            f"{one.r:+.2f}",
            span(one.low, one.high),
            chance(one.p).removeprefix("p "),
            str(one.n),
        )
        for (target, method), one in found.items()
    ]
    return Table(("correlation of", "method", "r", "95 % interval", "p", "n"), rows)
