"""Kinship of the parents against merge gain, and what an end at saturation would have changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import axis, figure, var
from src.pages.tables import Table
from src.pages.text import interval, number, p_value, plural
from src.population import Model
from src.report.points import points, sampling
from src.report.run_data import RunData
from src.statistics import Relation, early_stop, relations, saturation, stop_after
from src.statistics.saturation import ALPHA

LEAST = 3
"""Merges that a correlation needs."""


def section(run: RunData) -> Section:
    """Return how kinship and gain go together in this run, and where it was saturated."""
    title, metric = "Does kinship tell the gain?", run.metric.name
    measured = [(model, run.population.gain(model.name), run.kinship.mean(model.parents)) for model in run.offspring]
    known = [(model, gain, kinship) for model, gain, kinship in measured if gain is not None and kinship == kinship]
    if len(known) < LEAST:
        words = [f"{plural(len(known), 'merge')} of measured parents: too few for a correlation, which needs {LEAST}."]
        return Section("relation", title, words)
    merges, gains, kinship = (list(column) for column in zip(*known, strict=True))
    found = relations({metric: kinship}, gains)
    words = [_summary(found), _saturation(run, merges, gains, kinship), *_stop(run)]
    if left_out := sampling(len(merges)):
        words.append(f"The figures of all merges show some{left_out}; lines and figures in words are of all.")
    sizes = list(map(abs, gains))
    panels = [
        [Drawing("kinship-gain", "gain", _draw(run, merges, kinship, gains, "merge gain, points"))],
        [Drawing("kinship-abs-gain", "size of the gain", _draw(run, merges, kinship, sizes, "|gain|"))],
    ]
    rows = [
        (
            f"{metric} and {one.target}",
            one.found.method,
            number(one.found.r, "+.2f"),
            interval(one.found.low, one.found.high),
            p_value(one.found.p).removeprefix("p "),
            p_value(one.adjusted).removeprefix("p "),
            str(one.found.n),
        )
        for one in found
    ]
    columns = ("correlation of", "method", "r", "95 % interval", "p", "adjusted p", "n")
    return Section("relation", title, words, panels, [Table(columns, rows, words=frozenset({0, 1}))])


def _summary(family: Sequence[Relation]) -> str:
    """Tell how kinship and the size of the gain lie along a line."""
    one = next(one for one in family if (one.target, one.found.method) == ("|gain|", "pearson"))
    found = one.found
    if math.isnan(found.r):
        return "Nothing varies here, so nothing correlates."
    verdict = "beyond chance" if one.adjusted < 0.05 else "which chance alone could do"
    return (
        f"Between the parents' {one.metric} and the size of the gain, r is {found.r:+.2f} (95 % interval "
        f"{interval(found.low, found.high)}, {p_value(found.p)}; adjusted for the {len(family)} correlations here "
        f"after Holm, {p_value(one.adjusted)}; n {found.n} merges), {verdict}. The interval is from "
        f"{found.resamples:,} resamples: another seed would move a bound by {found.error:.3f}. Merges that share a "
        "parent are not independent, so true intervals are wider."
    )


def _saturation(run: RunData, merges: Sequence[Model], gains: Sequence[float], kinship: Sequence[float]) -> str:
    closer = run.metric.larger_is_closer
    found = saturation([model.generation for model in merges], gains, kinship, larger_is_closer=closer)
    p = p_value(found.p)
    if found.generation is None and found.p <= ALPHA:
        return f"The merges changed as the run went on ({p}), but |gain| did not fall while kinship rose."
    if found.generation is None:
        return f"No generation parts learning from saturation beyond chance (changepoint on ranks, {p})."
    stop = stop_after(last=found.generation, **_made(run))
    saved = f" Ending there would have saved {stop.saved} of {stop.merges} merges and cost {stop.cost:.2f} points."
    return (
        f"Saturated from generation {found.generation} on (changepoint on ranks, {p}): mean |gain| "
        f"{found.gain_before:.2f} before and {found.gain_after:.2f} after, mean kinship {found.kinship_before:.2f} "
        f"before and {found.kinship_after:.2f} after.{saved if stop.saved else ''}"
    )


def _stop(run: RunData) -> list[str]:
    """Tell what the run's own rule on kinship would have saved, where the run went on beyond it."""
    patience = run.settings["stop"]["patience"]
    if run.threshold is None or not run.top_kinship:
        return []
    made = _made(run)
    kinship = [run.top_kinship.get(generation, math.nan) for generation in made["generation"]]
    rule = {"threshold": run.threshold, "patience": patience, "larger_is_closer": run.metric.larger_is_closer}
    stop = early_stop(kinship=kinship, **made, **rule)
    if not stop.saved:
        return []
    return [
        f"A stop at a mean kinship of {run.threshold:g} within the k best, for {patience} generations, would have "
        f"ended the run after generation {stop.generation}, saved {stop.saved} of {stop.merges} merges and cost "
        f"{stop.cost:.2f} points."
    ]


def _made(run: RunData) -> dict[str, Any]:
    """Return generation and average of each offspring, and the founders' averages."""
    return {
        "generation": [model.generation for model in run.offspring],
        "average": [model.average for model in run.offspring],
        "founders": [model.average for model in run.founders],
    }


def _draw(run: RunData, merges: Sequence[Model], x: Sequence[float], y: Sequence[float], title: str) -> Figure:
    drawn = figure([], xaxis=axis(f"kinship of the parents ({run.metric.name})"), yaxis=axis(title, zeroline=True))
    if np.ptp(x) > 0:
        slope, height = np.polyfit(x, y, 1)
        ends = [min(x), max(x)]
        line = Scatter(mode="lines", name="least squares", x=ends, y=[slope * end + height for end in ends])
        drawn.add_trace(line.update(line={"color": var("quiet"), "dash": "dash", "width": 1.5}, hoverinfo="skip"))
    drawn.add_traces([trace.update(opacity=0.85) for trace in points(run, merges, x, y, 10)])
    return drawn
