"""What a run would do, printed without doing it: `dry_run=true`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from src.config import Settings
from src.evaluate import benchmark
from src.founders import Found
from src.population import KinshipTable, Model, Pair, Population

GIB = 2**30


def show(settings: Settings, found: Mapping[str, Found]) -> None:
    """Print the plan: founders, the first generation's pairs, merges and evaluations at most, disk, what is unknown."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"plan of {settings.folder} ({settings.strategy.name}, merge: {settings.merge.method})\n")
    console.print(_families(found))
    console.print(_first_generation(settings))
    console.print(_most(settings))
    console.print(_disk(settings, found))
    for line in _merging(settings, found):
        console.print(line)
    if all(one.checkpoint is not None for one in found.values()):
        console.print(_prediction(settings, found))
    if warning := benchmark.warning(settings.evaluate.model_dump()):
        console.print(f"\nwarning: {warning}")
    for remark in dict.fromkeys(one.remark for one in found.values() if one.checkpoint is None):
        names = [name for name, one in found.items() if one.checkpoint is None and one.remark == remark]
        console.print(f"\nnot looked at: {', '.join(names)} ({remark})")


def most_merges(settings: Settings) -> int | None:
    """How many merges the run can come to; None where no rule bounds it."""
    founders = len(settings.founders.models)
    bounds = []
    if settings.strategy.name == "one_shot":
        bounds.append(1)
    if settings.stop.generations is not None:
        first = len(_pairs(settings)) if _certain(settings) else settings.strategy.most_pairs(founders)
        later = settings.strategy.most_pairs(10**6)
        bounds.append(first + (settings.stop.generations - 1) * later)
    if settings.stop.evaluations is not None:
        bounds.append(max(0, settings.stop.evaluations - founders))
    return min(bounds, default=None)


def _families(found: Mapping[str, Found]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "parameters", "size", "checkpoint"):
        table.add_column(column, justify="right" if column in {"parameters", "size"} else "left", no_wrap=True)
    for name, one in found.items():
        parameters = f"{one.checkpoint.parameters / 1e6:,.2f} M" if one.checkpoint else "?"
        table.add_row(name, parameters, _gib(one.nbytes), one.source)
    return table


def _first_generation(settings: Settings) -> str:
    pairs = _pairs(settings)
    if _certain(settings):
        return "\ngeneration 1 merges " + ", ".join(" × ".join(pair.parents) for pair in pairs)
    founders = list(settings.founders.models)
    candidates = [" × ".join(pair) for pair in itertools.combinations(founders, 2)]
    many = settings.strategy.most_pairs(len(founders))
    why = "which depends on the founders' averages" if settings.strategy.name != "random_pairs" else "drawn by the seed"
    return f"\ngeneration 1 merges at most {many} of {', '.join(candidates)}: {why}"


def _pairs(settings: Settings) -> list[Pair]:
    """Generation 1's pairs if all founders were equally good."""
    founders = Population(tuple(Model(name, average=0.0) for name in settings.founders.models))
    return settings.strategy.pairs(founders, KinshipTable(settings.kinship.metric))


def _certain(settings: Settings) -> bool:
    """Whether generation 1's pairs are the same whatever the founders' averages (their order aside)."""
    k = getattr(settings.strategy, "k", None)
    return settings.strategy.name != "random_pairs" and (k is None or k >= len(settings.founders.models))


def _prediction(settings: Settings, found: Mapping[str, Found]) -> Table | str:
    """Founders' kinship, measured, and that of every offspring that generation 1 can have, predicted."""
    from src.kinship import kinship_matrix, measure, predicted_kinship
    from src.merge import recipe

    models = {name: one.checkpoint for name, one in found.items() if one.checkpoint is not None}
    base = models.pop("base")
    grams = measure(base, models)
    metric = settings.kinship.metric
    title = f"\nkinship ({metric}): measured, and predicted of offspring whose better parent is named first"
    table = Table(title=title, box=None, title_justify="left")
    table.add_column("")
    for name in grams.names:
        table.add_column(name, justify="right")
    for name, row in zip(grams.names, kinship_matrix(grams, metric), strict=True):
        table.add_row(name, *(f"{value:.3f}" for value in row))
    founders = list(models)
    certain = [pair.parents for pair in _pairs(settings)]
    for parents in certain if _certain(settings) else itertools.combinations(founders, 2):
        predicted = predicted_kinship(grams, recipe(settings.merge, parents, seed=0, threads=1).config, metric)
        if predicted is None:
            return f"kinship of offspring: merge.method={settings.merge.method} does not allow to predict it"
        table.add_row(" × ".join(parents), *(f"{predicted[name]:.3f}" for name in grams.names))
    return table


def _most(settings: Settings) -> str:
    merges, founders = most_merges(settings), len(settings.founders.models)
    if merges is None:
        return "merges and evaluations: no bound (set stop.generations or stop.evaluations)"
    return f"at most {merges} merges and {merges + founders} evaluations (the {founders} founders' among them)"


def _disk(settings: Settings, found: Mapping[str, Found]) -> str:
    sizes = [one.nbytes for name, one in found.items() if name != "base"]
    merges = most_merges(settings)
    if merges is None or any(size is None for size in sizes):
        why = "the run has no bound" if merges is None else "not every founder could be looked at"
        return f"disk: unknown, since {why}"
    need = merges * max(size for size in sizes if size is not None)
    return f"disk: at most {_gib(need)} for offspring, in {settings.folder}"


def _merging(settings: Settings, found: Mapping[str, Found]) -> list[str]:
    """What a merge takes, and what speaks against it, where our own methods know."""
    import torch

    from src.models.methods.forecast import forecast

    models = {name: one.checkpoint for name, one in found.items() if one.checkpoint is not None}
    if len(models) < len(found):
        return []
    parents = max((len(pair.parents) for pair in _pairs(settings)), default=2)
    device = "cuda" if settings.workers.device == "auto" and torch.cuda.is_available() else "cpu"
    threads = settings.workers.threads or torch.get_num_threads()
    return forecast(settings.merge.method, models.pop("base"), models, parents, device=device, threads=threads)


def _gib(nbytes: int | None) -> str:
    if nbytes is None:
        return "?"
    return f"{nbytes / GIB:,.1f} GiB" if nbytes >= GIB / 10 else f"{nbytes / 2**20:,.1f} MiB"
