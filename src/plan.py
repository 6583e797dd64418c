"""What a run would do, printed without doing it: `dry_run=true`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from src import kinship
from src.config import Evaluate, Settings
from src.evaluation import benchmarks
from src.models.founders import Found
from src.population import KinshipTable, Model, Population, Proposal
from src.runtime import terminal
from src.runtime.files import size_words

if TYPE_CHECKING:
    from src.evaluation.evaluator import Evaluator
    from src.kinship import Grams, Moved
    from src.models.checkpoint import Checkpoint

FEW = 16
"""Founders up to which the kinship of all, and of every offspring that generation 1 can have, is shown."""
NAMED = 24
"""Pairs up to which each is named."""
EXTREMES = 5
"""Of many founders' pairs, how many of the least and of the most related are shown."""
OFF = ((0.4, "tenths"), (0.15, "hundredths"), (0.0, "thousandths"))
"""What rounding did to predictions, by the share of the changed weights that are one step from the base: as measured in
docs/kinship.md."""


def show(
    settings: Settings, found: Mapping[str, Found], evaluator: Evaluator | None, learning: Sequence[str] = ()
) -> None:
    """Print the plan: founders, tasks, the first generation's pairs, what all of it takes at most, what is unknown.

    The evaluator is of the tasks whose data are here, None where the user's own evaluates; `learning` is what is to be
    said of what is learned by gradient (`src.learning.forecast`).
    """
    from src.evaluation.forecast import forecast

    console = terminal.console(soft_wrap=True)
    console.print(f"plan of {settings.folder} ({settings.strategy.name}, merge: {settings.merge.method})\n")
    for part in (_families(found), "", _tasks(settings, evaluator), _first_generation(settings)):
        console.print(part)
    console.print(_most(settings), _disk(settings, found), sep="\n")
    here = {name: one.checkpoint for name, one in found.items() if one.checkpoint is not None}
    founders = {name: checkpoint for name, checkpoint in here.items() if name != "base"}
    evaluating = forecast(settings, founders, evaluator, most_merges(settings))
    merging = _merging(settings, here["base"], founders) if len(here) == len(found) else []
    for line in (*merging, *evaluating, *learning):
        console.print(line)
    if len(here) == len(found):
        for part in _kinship(settings, here["base"], founders):
            console.print(part)
    if warning := benchmarks.warning(settings.evaluate.model_dump()):
        console.print(f"\nwarning: {warning}")
    for remark in dict.fromkeys(one.remark for one in found.values() if one.checkpoint is None):
        names = [name for name, one in found.items() if one.checkpoint is None and one.remark == remark]
        console.print(f"\nnot looked at: {', '.join(names)} ({remark})")


DRAWN = {"random_pairs", "optuna_search", "m2n2"}
"""Strategies whose first generation depends on the seed."""


def devices(settings: Settings) -> tuple[str, ...]:
    """Return what one process of the run would compute on, as torch names it."""
    import torch

    if settings.workers.device == "cpu" or not torch.cuda.is_available():
        return ("cpu",)
    return tuple(f"cuda:{number}" for number in range(settings.workers.gpus_per_model))


def most_merges(settings: Settings) -> int | None:
    """Return how many merges the run can come to; None where no rule bounds it."""
    founders = len(settings.founders.models)
    bounds = []
    if settings.strategy.name == "one_shot":
        bounds.append(1)
    if settings.stop.generations is not None:
        first = len(_pairs(settings)) if _certain(settings) else settings.strategy.most_proposals(founders)
        later = settings.strategy.most_proposals(10**6)
        bounds.append(first + (settings.stop.generations - 1) * later)
    if settings.stop.evaluations is not None:
        bounds.append(max(0, settings.stop.evaluations - founders - settings.strategy.needs_base))
    return min(bounds, default=None)


def _families(found: Mapping[str, Found]) -> Table:
    table = _table("", ">parameters", ">size", "checkpoint")
    for name, one in found.items():
        parameters = f"{one.checkpoint.parameters / 1e6:,.2f} M" if one.checkpoint else "?"
        adapter = one.checkpoint and one.checkpoint.adapter
        size = f"{_size(adapter.nbytes)}, whole {_size(one.nbytes)}" if adapter else _size(one.nbytes)
        table.add_row(name, parameters, size, one.source)
    return table


def _first_generation(settings: Settings) -> str:
    pairs = _pairs(settings)
    if not pairs:
        return "\ngeneration 1 follows from what the founders answer"
    if _certain(settings):
        return f"\ngeneration 1 merges {_listed(pairs)}"
    if any(pair.merge is not None for pair in pairs):
        return f"\ngeneration 1 makes {len(pairs)} models, drawn by the seed"
    candidates = [Proposal(pair) for pair in itertools.combinations(settings.founders.models, 2)]
    many = settings.strategy.most_proposals(len(settings.founders.models))
    why = "which depends on the founders' averages" if settings.strategy.name != "random_pairs" else "drawn by the seed"
    return f"\ngeneration 1 merges at most {many} of {_listed(candidates)}: {why}"


def _named(pair: Proposal) -> str:
    """Return whom a proposal merges, and by what if not by the run's merge."""
    return " × ".join(pair.parents) + (f" by {pair.merge['method']}" if pair.merge is not None else "")


def _listed(pairs: Sequence[Proposal]) -> str:
    """Format the pairs, or the first of them and how many more there are."""
    named = ", ".join(map(_named, pairs[:NAMED]))
    return named if len(pairs) <= NAMED else f"{named} and {len(pairs) - NAMED:,} more"


def _pairs(settings: Settings) -> list[Proposal]:
    """Return generation 1's pairs if all founders were equally good."""
    founders = Population(tuple(Model(name, average=0.0) for name in settings.founders.models))
    return settings.strategy.propose(founders, KinshipTable(settings.kinship.metric))


def _certain(settings: Settings) -> bool:
    """Return whether generation 1's pairs are the same whatever the founders' averages (their order aside)."""
    k = getattr(settings.strategy, "k", None)
    return settings.strategy.name not in DRAWN and (k is None or k >= len(settings.founders.models))


def _kinship(settings: Settings, base: Checkpoint, models: Mapping[str, Checkpoint]) -> Iterator[Table | str]:
    """Measure the founders' kinship and predict that of generation 1's offspring; say what is left out."""
    grams = kinship.measure(base, models)
    few = len(models) <= FEW
    pairs = _pairs(settings)
    if not _certain(settings) or (not pairs and not few):
        pairs = [Proposal(pair) for pair in itertools.combinations(models, 2)]
    if few:
        yield _all_founders(settings, grams, pairs)
    else:
        yield _extremes(settings, grams, pairs)
        yield (
            f"left out: the kinship of all {len(models)} founders to each other (python -m src.kinship prints it), and "
            f"the offspring of the other pairs that generation 1 can have ({len(pairs):,} in all)"
        )
    unknown = [pair for pair in pairs[:1] if _predicted(settings, grams, pair) is None]
    if unknown:
        method = (unknown[0].merge or {}).get("method", settings.merge.method)
        yield f"kinship of offspring: merge.method={method} does not allow to predict it"
    elif rounding := _rounding(kinship.moved(base, models, dtype=settings.merge.dtype), settings.merge.dtype):
        yield rounding


def _all_founders(settings: Settings, grams: Grams, pairs: Sequence[Proposal]) -> Table:
    """Return a row for each founder, and for each pair's offspring, against all founders."""
    metric = settings.kinship.metric
    title = f"\nkinship ({metric}): measured, and predicted of offspring whose better parent is named first"
    table = _table("", *(f">{name}" for name in grams.names), title=title)
    for name, row in zip(grams.names, kinship.kinship_matrix(grams, metric), strict=True):
        table.add_row(name, *(f"{value:.3f}" for value in row))
    for pair in pairs:
        if (predicted := _predicted(settings, grams, pair)) is not None:
            table.add_row(_named(pair), *(f"{predicted[name]:.3f}" for name in grams.names))
    return table


def _extremes(settings: Settings, grams: Grams, pairs: Sequence[Proposal]) -> Table:
    """Return the offspring of those of many pairs that have the lowest and the highest kinship."""
    matrix = kinship.kinship_matrix(grams, settings.kinship.metric)
    place = {name: i for i, name in enumerate(grams.names)}
    rows = [[place[name] for name in pair.parents] for pair in pairs]
    among = np.array([kinship.mean_kinship(matrix[np.ix_(row, row)]) for row in rows])
    order = np.argsort(among, kind="stable").tolist()
    title = (
        f"\nkinship ({settings.kinship.metric}): {kinship.mean_kinship(matrix):.3f} in the mean of {len(matrix)} "
        "founders; the lowest and highest, and predicted of their offspring"
    )
    table = _table("", ">parents", ">offspring to them", ">to all others", title=title)
    for at in [*order[:EXTREMES], *order[max(EXTREMES, len(order) - EXTREMES) :]]:
        predicted = _predicted(settings, grams, pairs[at]) or {}
        near = [value for name, value in predicted.items() if name in pairs[at].parents]
        far = [value for name, value in predicted.items() if name not in pairs[at].parents]
        values = (among[at], *(sum(some) / len(some) if some else math.nan for some in (near, far)))
        cells = ("" if math.isnan(value) else f"{value:.3f}" for value in values)
        table.add_row(_listed([pairs[at]]) if len(rows[at]) < FEW else f"{len(rows[at])} founders", *cells)
    return table


def _predicted(settings: Settings, grams: Grams, pair: Proposal) -> Mapping[str, float] | None:
    from src.models.merging import recipe

    config = recipe(settings.merge, pair.parents, seed=0, threads=1, own=pair.merge).config
    return kinship.predicted_kinship(grams, config, settings.kinship.metric)


def _rounding(found: Mapping[str, Moved], dtype: str | None) -> str:
    """Describe what the table leaves out where offspring are rounded to 16 bits; empty where they are not."""
    if not found:
        return ""
    changed = sorted(one.changed / one.looked_at for one in found.values())
    nearest = sorted(one.one_step / max(one.changed, 1) for one in found.values())
    off = next(words for share, words in OFF if nearest[-1] >= share)
    return (
        f"rounding: {_span(changed)} of the founders' weights differ from the base's, {_span(nearest)} of these by one "
        f"step of {dtype or 'their 16 bits'}: predicted kinship leaves the rounding of offspring out, and may be off "
        f"by {off}"
    )


def _span(shares: Sequence[float]) -> str:
    low, high = f"{shares[0]:.0%}", f"{shares[-1]:.0%}"
    return low if low == high else f"{low} to {high}"


def _most(settings: Settings) -> str:
    merges, founders = most_merges(settings), len(settings.founders.models)
    if merges is None:
        return "merges and evaluations: no bound (set stop.generations or stop.evaluations)"
    given = founders + settings.strategy.needs_base
    whose = f"the {founders} founders'" + " and the base's" * settings.strategy.needs_base
    return f"at most {merges} merges and {merges + given} evaluations ({whose} among them)"


def _disk(settings: Settings, found: Mapping[str, Found]) -> str:
    sizes = [one.nbytes for name, one in found.items() if name != "base"]
    merges = most_merges(settings)
    if merges is None:
        return "disk: unknown, since the run has no bound"
    if None in sizes:
        return "disk: unknown, since not every founder could be looked at"
    need = merges * max(size or 0 for size in sizes)
    whole = sum(one.nbytes or 0 for one in found.values() if one.checkpoint is not None and one.checkpoint.adapter)
    adapters = f", and {_size(whole)} for adapters with whole weights while it goes on" if whole else ""
    return f"disk: at most {_size(need)} for offspring, in {settings.folder}{adapters}"


def _merging(settings: Settings, base: Checkpoint, models: Mapping[str, Checkpoint]) -> list[str]:
    """Return what a merge takes, and warnings, where the method is one of our own."""
    import torch

    from src.models.methods.forecast import forecast

    parents = max((len(pair.parents) for pair in _pairs(settings)), default=2)
    device = devices(settings)[0].partition(":")[0]
    threads = settings.workers.threads or torch.get_num_threads()
    treatment = settings.merge.treatment
    calibrated = bool(treatment.svc if treatment else settings.merge.parameters.get("svc"))
    return forecast(settings.merge.method, base, models, parents, device=device, threads=threads, calibrated=calibrated)


def _tasks(settings: Settings, evaluator: Evaluator | None) -> Table:
    """Return a row for each task, with its samples on either side; ? for what only its data could tell."""
    asked = settings.evaluate
    loaded, held_out = ({} if side is None else side.shown() for side in (evaluator, evaluator and evaluator.holdout))
    defined = {} if evaluator is None else _defined(asked)
    table = _table("task", ">samples", ">held out", ">shots", "metric", ">weight")
    for task in (*asked.tasks, *asked.held_out):
        steers = task in asked.tasks
        unseen: tuple[int | None, str | None, str | None] = (None, *defined.get(task.name, (None, None)))
        select, shots, metric = (loaded if steers else held_out).get(task.name, unseen)
        kept = held_out.get(task.name, unseen)[0] if asked.held_out_share is not None or not steers else 0
        counts = ("?" if count is None else f"{count:,}" for count in (select if steers else 0, kept))
        table.add_row(task.name, *counts, shots or "?", metric or "?", f"{task.weight:g}")
    return table


def _defined(asked: Evaluate) -> dict[str, tuple[str, str | None]]:
    """Return shots and metric of the tasks whose files tell both."""
    from src.evaluation import tasks

    found = {}
    for task, definition in tasks.defined(asked):
        if definition.name == task.name and definition.kind == definition.kind.TASK:
            shots = task.shots if task.shots is not None else definition.config.get("num_fewshot") or 0
            found[task.name] = str(shots), task.metric or next(iter(definition.metrics or ()), None)
    return found


def _table(*columns: str, title: str | None = None) -> Table:
    """Return a table without rows; columns whose names begin with > are numbers."""
    table = Table(title=title, box=None, pad_edge=title is not None, title_justify="left")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=title is None)
    return table


def _size(nbytes: int | None) -> str:
    return "?" if nbytes is None else size_words(nbytes)
