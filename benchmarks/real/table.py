"""Every strategy on the family, each as a user starts it: what it is worth, and what it takes.

A row that was measured is kept beside its run; a run that was interrupted before its row is begun anew, since the time
and the memory of half a run say nothing. The first run evaluates the founders, and the others remember that.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.real.family import Family
from benchmarks.real.programs import ROOT, Cost, run
from benchmarks.real.questions import DRAWS
from src.runtime.files import write_text
from src.runtime.progress import note

ONE_SHOT: Mapping[str, Sequence[str]] = {
    "task_arithmetic-0.4": ("merge=task_arithmetic", "merge.each.weight=0.4"),
    "task_arithmetic-0.5": ("merge=task_arithmetic", "merge.each.weight=0.5"),
    "ties": ("merge=ties",),
    "tsv_m": ("merge=tsv_m",),
    "wudi": ("merge=wudi",),
    "actmat": ("merge=actmat",),
}
SEARCHES: Mapping[str, Sequence[str]] = {
    "kinship_topk": ("merge=slerp",),
    "recipe_search": (),
    "recipe_gradient": ("strategy.batch=16", "keep=all"),
}
"""Strategies of many evaluations, and what they are given of their own. What learns keeps its start for others."""


@dataclass(frozen=True)
class Row:
    """One run, from its journal, and what its program took. Averages are in points, shares between 0 and 1."""

    name: str
    own: Sequence[str]
    """Its overrides, beside those that all runs share."""
    winner: str
    select: float
    """The winner's average on what steered."""
    merged: float | None
    """The best merge's average on what steered, whoever won."""
    holdout: float
    stderr: float
    """Of `holdout`."""
    gain: tuple[float, float, float] | None
    """The winner's holdout minus the best founder's, with its 95 % interval; None where a founder won."""
    kept: float
    """Mean share of the specialists' scores that the winner keeps, on the holdout."""
    worst: float
    """The winner's lowest task, on the holdout."""
    evaluations: int
    known: int
    """Evaluations, of either side, that another run had made."""
    seconds: Mapping[str, float]
    """As the journal has them: merged, measured, evaluated, held_out, learned."""
    cost: Cost
    founders: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Scores by side, founder and task."""
    learning: float = 0.0
    """What was learned by gradient, in evaluations: samples that went through the model, backwards counted twice."""


def overrides(evaluations: int) -> dict[str, list[str]]:
    """Return what every run has of its own, by its name; `evaluations` is the budget of a search."""
    own = {f"one_shot-{name}": ["strategy=one_shot", *merge] for name, merge in ONE_SHOT.items()}
    own |= {name: [f"strategy={name}", *given, f"stop.evaluations={evaluations}"] for name, given in SEARCHES.items()}
    return {name: [*found, f"name={name}"] for name, found in own.items()}


def shared(family: Family, batch_size: str) -> list[str]:
    """Return the overrides that all runs have in common: the family, its tasks, where and how they run."""
    founders = ", ".join(f"{name}: {_shown(path)}" for name, path in family.founders.items())
    return [
        *("founders=local", f"founders.base={_shown(family.base)}", f"founders.models={{{founders}}}"),
        *(f"evaluate.tasks=[{', '.join(DRAWS)}]", f"evaluate.include={_shown(family.tasks)}", "evaluate.holdout=0.5"),
        *(f"evaluate.batch_size={batch_size}", f"seed={family.seed}", "track=none", f"outputs={_shown(runs(family))}"),
        f"workers.device={'cpu' if family.device == 'cpu' else 'auto'}",
    ]


def runs(family: Family) -> Path:
    """Return the folder of the runs of a family: other samples, or another device, are other runs."""
    return family.folder / f"runs-{family.samples}-{family.device.replace(':', '-')}"


def row(family: Family, name: str, own: Sequence[str], common: Sequence[str]) -> Row:
    """Return what a run gave, running it with its own and the common overrides if that is not known yet.

    Raises:
        MachineError: it failed.
    """
    folder = runs(family) / name
    kept = folder / "row.json"
    if kept.is_file():
        return _loaded(json.loads(kept.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    note(f"running {name}")
    cost = run([sys.executable, "-m", "src.run", *own, *common], runs(family) / f"{name}.log", family.device)
    found = read(name, own, folder, cost)
    write_text(kept, json.dumps(asdict(found), indent=1))
    return found


def read(name: str, own: Sequence[str], folder: Path, cost: Cost) -> Row:
    """Return the row of a finished run."""
    from src.journal import run_state
    from src.population import normalised_average, skills, worst

    state = run_state(folder)
    assert state is not None
    population = state.population
    winner = population.best(1)[0]
    founders = [model for model in population.eligible() if model.founder]
    merges = [model.average for model in population.eligible() if not model.founder and model.average is not None]
    held_out = {model.name: state.holdout[model.name].scores for model in founders}
    kept = skills(held_out, state.holdout[winner.name].scores)
    against = state.compared.get("holdout")
    return Row(
        name,
        own,
        winner.name,
        select=population.value(winner),
        merged=max(merges, default=None),
        holdout=state.holdout[winner.name].average,
        stderr=state.holdout[winner.name].stderr,
        gain=None if against is None else (against.difference, against.low, against.high),
        kept=normalised_average(kept) / 100,
        worst=worst(kept).score,
        evaluations=state.evaluations,
        known=state.known["evaluated"] + state.known["held_out"],
        seconds=dict(state.seconds),
        cost=cost,
        founders={"select": {model.name: model.scores for model in founders}, "holdout": held_out},
        learning=state.learning,
    )


def _loaded(content: dict[str, Any]) -> Row:
    gain = content.pop("gain")
    return Row(**content | {"cost": Cost(**content["cost"]), "gain": None if gain is None else tuple(gain)})


def _shown(path: Path) -> str:
    """Return a path as a user in the project's folder would write it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else resolved)
