"""Journals of runs that never were, for what is only read from journals."""

from pathlib import Path
from typing import Any

from src.journal import Journal
from src.runtime import checksums, files

SETTINGS: dict[str, Any] = {
    "name": "run",
    "seed": 0,
    "zoo": {"seed": 0, "folder": "outputs/zoo/seed-0"},
    "founders": {"base": "outputs/zoo/seed-0/base"},
    "strategy": {"name": "greedy_topk", "k": 2},
    "kinship": {"metric": "pcc"},
    "merge": {"method": "slerp", "parameters": {"t": 0.5}},
    "stop": {"generations": None, "kinship": None, "patience": 1},
    "evaluate": {"tasks": [{"name": "task", "weight": 1.0}]},
}


def write_run(
    folder: Path,
    averages: list[float],
    *,
    kinship: list[float] | None = None,
    seed: int = 0,
    holdout: float | None = None,
    samples: list[float] | None = None,
    exploration: int | None = None,
    base: float | None = None,
    command: str | None = None,
    **settings: Any,
) -> Path:
    """Two founders, A and B, and one merge a generation, each of the two best there were.

    Args:
        folder: of the run.
        averages: of A, B, 1-1, 2-1, …
        kinship: of each offspring to every model before it; of A and B it is 0.1.
        holdout: the best model's average there.
        samples: the best model's score on each.
        exploration: the generation whose merge was one.
        base: the base's average, evaluated first.
        command: that began it.
        settings: whole groups of them, to replace.
    """
    family = f"outputs/zoo/seed-{seed}"
    own = {"name": folder.name, "seed": seed, "zoo": {"seed": seed, "folder": family}}
    journal = Journal(folder / "journal.jsonl")
    founders = {"base": f"{family}/base"}
    started: dict[str, Any] = {"settings": {**SETTINGS, **own, "founders": founders, **settings}, "versions": {}}
    if command is not None:
        started["provenance"] = {"command": command}
    journal.append("started", version=1, **started)
    names = ["A", "B", *(f"{n}-1" for n in range(1, len(averages) - 1))]
    for name in ("base", "A", "B"):
        journal.append("founder", model=name, base=name == "base", source=name, fingerprint=name, parameters=1)
    _measure(journal, names[:1], "B", 0.1)
    if base is not None:
        _evaluate(journal, "base", base)
    for generation, name in enumerate(names[2:], 1):
        for model in names[:2] if generation == 1 else ():
            _evaluate(journal, model, averages[names.index(model)])
        before = sorted(names[: names.index(name)], key=lambda one: -averages[names.index(one)])
        pairs = [(a, b) for i, a in enumerate(before) for b in before[i + 1 :]]
        parents = next(pair for pair in pairs if not _merged(journal, pair))
        one = {"name": name, "parents": list(parents), "exploration": generation == exploration}
        journal.append("selected", generation=generation, offspring=[one])
        config = {"merge_method": "slerp", "models": [{"model": parent} for parent in one["parents"]]}
        recipe = {"config": config, "donor": one["parents"][0], "seed": seed, "threads": 1}
        journal.append("merged", model=name, recipe=recipe, fingerprint=f"{seed}-{name}", cached=False, seconds=1.0)
        _measure(journal, names[: names.index(name)], name, (kinship or [0.5] * len(names))[generation - 1])
        _evaluate(journal, name, averages[names.index(name)])
        journal.append("closed", generation=generation)
    best = names[averages.index(max(averages))]
    if holdout is not None:
        journal.append("held_out", model=best, scores={}, average=holdout, stderr=1.0, samples=10, seconds=1.0)
    journal.append("stopped", reason="the budget is spent: all of it", best=best)
    journal.close()
    if samples is not None:
        kept = {"average": max(averages), "samples": {"task": dict(enumerate(samples))}, "weights": {"task": 1.0}}
        files.write_bytes(folder / f"samples/{best}.json", checksums.dump(kept))
    return folder


def _merged(journal: Journal, pair: tuple[str, str]) -> bool:
    chosen = [event["offspring"][0]["parents"] for event in journal.events if event["event"] == "selected"]
    return set(pair) in map(set, chosen)


def _measure(journal: Journal, others: list[str], name: str, kinship: float) -> None:
    journal.append("measured", models=[name], kinship={"pcc": [[o, name, kinship] for o in others]}, seconds=1.0)


def _evaluate(journal: Journal, model: str, average: float) -> None:
    journal.append(
        "evaluated", model=model, scores={"task": average}, average=average, stderr=1.0, samples=10, seconds=1.0
    )
