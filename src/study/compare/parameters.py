"""What was varied between configurations, and which of it matters for the best average; in numbers and drawn."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plotly.graph_objects import Figure, Scatter

from src.pages.document import Drawing, Section
from src.pages.figures import bars, escape, figure, var
from src.study.compare.configurations import IGNORED, Configuration, differing, mean_of
from src.study.compare.runs import Run

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST = 10
"""Configurations below which nothing is said about parameters."""
TOP = 5
"""Configurations that count as the best ones, at least: PED-ANOVA's own advice."""
CHOICES = 6
"""Values up to which numbers count as choices."""
AXES = 8
"""Settings that have an axis, the most important ones."""
SPREAD = 0.6
"""Part of a choice's room that its lines are spread over, so that none hides another."""
ABSENT = "(none)"
"""Label of configurations to which a setting does not apply."""


@dataclass(frozen=True)
class Parameters:
    """Values of what was varied, by configuration, and what they led to."""

    values: Mapping[str, Sequence[str | None]]
    """By key, the most important first; None where a configuration has no such setting."""
    scores: Sequence[float]
    """Mean over a configuration's runs, in points above the best founder: families differ by far more."""
    importance: Mapping[str, float]
    """By key, 0 to 1; they add up to 1. What the best configurations have in common weighs most: conditional PED-ANOVA
    (Watanabe et al., arXiv 2304.10255, and arXiv 2601.20800) as Optuna computes it."""


def parameters(found: Sequence[Configuration]) -> Parameters | None:
    """Return what was varied between these configurations; None where they are too few, or all as good."""
    runs = [next(iter(one.runs.values())) for one in found]
    scores = [mean_of([run.average - run.founder for run in one.runs.values()]) for one in found]
    values = _varied(runs)
    if len(found) < LEAST or not values or len(set(scores)) < 2:
        return None
    importance = _importance(values, scores)
    return Parameters({key: values[key] for key in importance}, scores, importance)


def number(value: str | None) -> float | None:
    """Return the number that a value is; None where it is a word."""
    try:
        return float(value or "")
    except ValueError:
        return None


def _varied(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return the keys of more than one value, with each run's."""
    chosen = [_chosen(run) for run in runs]
    if all(one is not None for one in chosen):
        keys = dict.fromkeys(key for one in chosen for key in one or ())
        columns = {key: [(one or {}).get(key) for one in chosen] for key in keys}
    else:
        keys = dict.fromkeys(differing(runs))
        columns = {key: [_text(run.settings.get(key)) for run in runs] for key in keys}
    found: dict[str, list[str | None]] = {}
    for key, column in columns.items():
        parts = [column.index(value) for value in column]
        same = any(parts == [other.index(value) for value in other] for other in found.values())
        if not key.startswith((*IGNORED, "sweep")) and len(set(column)) > 1 and not same:
            found[key] = column
    return found


def _chosen(run: Run) -> dict[str, str] | None:
    """Return what a trial of a study was started with, which tells what applies to it; None for other runs."""
    command = next((one["provenance"].get("command") for one in run.state.starts if one.get("provenance")), None)
    words = shlex.split(command or "")
    if not any(word.startswith("++sweep.trial=") for word in words):
        return None
    pairs = (word.partition("=") for word in words if "=" in word)
    return {key.lstrip("+"): value for key, _, value in pairs}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _importance(values: Mapping[str, Sequence[str | None]], scores: Sequence[float]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {key: _distribution(column) for key, column in values.items()}
    study = optuna.create_study(direction="maximize")
    for place, score in enumerate(scores):
        known = {key: column[place] for key, column in values.items() if column[place] is not None}
        params = {
            key: value if isinstance(kinds[key], optuna.distributions.CategoricalDistribution) else number(value)
            for key, value in known.items()
        }
        distributions = {key: kinds[key] for key in params}
        study.add_trial(optuna.trial.create_trial(value=score, params=params, distributions=distributions))
    top = min(0.9, max(0.1, TOP / len(scores)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value that one trial has: the page says that few trials tell little
        return optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top),
            params=list(values),
        )


def _distribution(column: Sequence[str | None]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = sorted({value for value in column if value is not None})
    numbers = [one for value in known if (one := number(value)) is not None]
    if len(numbers) == len(known) > CHOICES:
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(known)


# --- figures ---------------------------------------------------------------------------------------------------------


def section(found: Sequence[Configuration], varied: Parameters) -> Section:
    """Return how much each setting matters, and a line a configuration."""
    keys = list(varied.values)[:AXES]
    more = (
        f" Of {len(varied.values)} settings the {AXES} most important have an axis."
        if len(keys) < len(varied.values)
        else ""
    )
    words = [
        f"How much of what sets the best of {len(found)} configurations apart lies in which setting: conditional "
        "PED-ANOVA, as Optuna computes it. It counts what the best have in common, and a setting matters only where it "
        "applies. Of few configurations, and of settings that were varied together, it is a hint and no proof.",
        "Each line is a configuration, from its settings to its best average; orange lines are the best. Within "
        f"a choice the better lines are higher; {ABSENT} is where a setting does not apply.{more}",
    ]
    panels = [
        [Drawing("importance", "which settings matter", importances(varied))],
        [Drawing("parallel", "from settings to scores", parallel(found, varied), min_width=110 * (len(keys) + 1))],
    ]
    return Section("parameters", "Which settings matter", words, panels, wide=True)


def importances(varied: Parameters) -> Figure:
    """Return a bar a setting, the most important on top."""
    shares = {key: 100 * share for key, share in varied.importance.items()}
    texts = [f"{share:.0f} %" for share in shares.values()]
    return bars(shares, texts, "share of the importance, %", ["blue"] * len(shares), 90 + 26 * len(shares))


def parallel(found: Sequence[Configuration], varied: Parameters) -> Figure:
    """Return parallel coordinates: an axis a setting, the scores on the last; drawn as lines, which need no WebGL."""
    axes = [_axis(column, varied.scores) for column in list(varied.values.values())[:AXES]]
    low, high = min(varied.scores), max(varied.scores)
    last = [(score - low) / (high - low) for score in varied.scores]
    places = [[places[n] for places, _ in axes] + [last[n]] for n in range(len(found))]
    data = [
        _line(one, heights, score == high, (score - low) / (high - low))
        for one, heights, score in sorted(zip(found, places, varied.scores, strict=True), key=lambda each: each[2])
    ]
    ticks = [ticks for _, ticks in axes] + [[(0.0, f"{low:+.2f}"), (1.0, f"{high:+.2f}")]]
    names = [*map(_wrapped, list(varied.values)[:AXES]), "points above<br>the best founder"]
    labels = [_label(x, y, text) for x, marks in enumerate(ticks) for y, text in marks]
    upright = {"type": "line", "y0": -0.02, "y1": 1.02, "line": {"color": var("line"), "width": 1}, "layer": "below"}
    across = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.5, len(axes) + 0.55]}
    return figure(
        data,
        420,
        xaxis={**across, "showgrid": False},
        yaxis={"visible": False, "range": [-0.06, 1.06]},
        shapes=[{**upright, "x0": x, "x1": x} for x in range(len(names))],
        annotations=labels,
        showlegend=False,
    )


def _axis(column: Sequence[str | None], scores: Sequence[float]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the height of each value of a setting, 0 to 1, and labels with theirs."""
    known = {value for value in column if value is not None}
    numbers = {value: one for value in known if (one := number(value)) is not None}
    if len(numbers) == len(known) > CHOICES and len(known) == len({*column}):
        low, high = min(numbers.values()), max(numbers.values())
        heights = [(numbers[str(value)] - low) / (high - low) for value in column]
        return heights, [(0.0, f"{low:g}"), (1.0, f"{high:g}")]
    choices: list[str | None] = sorted(known, key=lambda value: (numbers.get(str(value), 0.0), value))
    choices = [None, *choices] if None in column else choices
    room = 1 / len(choices)
    heights = [0.0] * len(column)
    for place, choice in enumerate(choices):
        members = sorted((n for n, value in enumerate(column) if value == choice), key=lambda n: scores[n])
        for rank, n in enumerate(members):
            across = (rank + 0.5) / len(members) - 0.5
            heights[n] = room * (place + 0.5 + SPREAD * across)
    return heights, [
        (room * (place + 0.5), ABSENT if one is None else escape(one)) for place, one in enumerate(choices)
    ]


def _line(one: Configuration, heights: Sequence[float], best: bool, share: float) -> Scatter:
    told = f"{escape(one.label)}<br>{', '.join(escape(run.name) for run in one.runs.values())}"
    line = Scatter(mode="lines", x=list(range(len(heights))), y=heights, text=told, hoverinfo="text")
    line.update(opacity=1.0 if best else round(0.2 + 0.5 * share, 2))
    return line.update(line={"color": var("orange" if best else "blue"), "width": 2.5 if best else 1.5})


def _label(x: int, y: float, text: str) -> dict[str, Any]:
    place = {"x": x, "y": y, "xanchor": "left", "xshift": 4, "showarrow": False, "text": text}
    return {**place, "font": {"size": 11, "color": var("ink")}, "bgcolor": var("card"), "borderpad": 1, "opacity": 0.9}


def _wrapped(key: str) -> str:
    """Return a key in as many lines as it has parts."""
    return escape(key).replace(".", ".<br>")
