"""Fronts that were predicted against what their models really score: python -m benchmarks.tradeoff [--seeds 0-3].

Over families of the embedded kind a search of recipes is run through the front door. Of each, the front of
`python -m src.tradeoff` is predicted: every weighting that it prints, and the steps between the two tasks that trade
off most. All of its recipes that were not evaluated are made and asked both sides of the samples: those that steered,
whose answers the predictions follow from, and the holdout. What is finished is not done again. The table has, by task
and for the average, the root mean square error in points, the same with what a whole family is off taken out (the
holdout's questions are others, harder or easier), the mean error, and how many lay within the 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.search import OPEN, _add_zoo, _family, _front_door, _numbers

STANDARD = "average"
"""What is predicted beside the tasks."""
SIDES = ("select", "holdout")


@dataclass(frozen=True)
class Made:
    """A recipe of a front: by task, and for the average, what was predicted (value, low, high) and found, in points."""

    label: str
    predicted: dict[str, tuple[float, float, float]]
    found: dict[str, dict[str, float]]
    """By side."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-3", help="families, as FIRST-LAST or a list with commas")
    parser.add_argument("--evaluations", type=int, default=16, help="of each search, founders included")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/tradeoff"))
    _add_zoo(parser)
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    found: list[list[Made]] = []
    for seed in _numbers(options.seeds):
        folder = options.outputs / f"recipe_search-{seed}"
        if not options.only_print:
            _search(folder, seed, options)
        found.append(list(_made(folder, evaluate=not options.only_print)))
        print(f"family {seed}: {len(found[-1])} recipes", file=sys.stderr, flush=True)
    for side in SIDES:
        print(f"\npredicted against found on {side}, {sum(map(len, found))} recipes\n\n{table(found, side)}")


def _search(folder: Path, seed: int, options: argparse.Namespace) -> None:
    from src.journal import run_state

    state = run_state(folder)
    if state is not None and state.stopped is not None:
        return
    status = _front_door(
        "strategy=recipe_search",
        *OPEN,
        f"seed={seed}",
        _family(options, seed),
        f"stop.evaluations={options.evaluations}",
        f"outputs={options.outputs}",
        f"name={folder.name}",
        "workers.threads=1",
        log=options.outputs / f"{folder.name}.log",
    )
    if status:
        raise SystemExit(f"{folder.name}: exit status {status}, see {folder}.log")


def _made(folder: Path, *, evaluate: bool) -> Iterator[Made]:
    """Yield the recipes of a run's front with what they score; made and evaluated unless that is known."""
    import numpy as np
    import torch

    from src.study.tradeoff import front as fronts

    kept = folder / "tradeoffs.json"
    known = [Made(**one) for one in json.loads(kept.read_text())] if kept.exists() else []
    if known or not evaluate:
        yield from known
        return
    torch.set_num_threads(1)
    front = fronts.load(folder)
    points = front.points({**front.general, **front.emphasised})
    pair = fronts.most_opposed(points[len(front.general) :], front.tasks)
    points += front.points(front.between(*pair))[1:-1] if pair else []
    evaluated = [recipe.round(4) for recipe in front.problem.process.recipes.numpy()]
    for point in points:
        if any(np.array_equal(point.recipe, other) for other in evaluated):
            continue
        evaluated.append(point.recipe)
        predicted = {STANDARD: point.average, **point.tasks}
        known.append(
            Made(
                point.label,
                {name: (one.value, one.low, one.high) for name, one in predicted.items()},
                _scores(folder, front.proposal(point)),
            )
        )
    kept.write_text(json.dumps([asdict(one) for one in known], indent=1))
    yield from known


def _scores(folder: Path, proposal: Any) -> dict[str, dict[str, float]]:
    """Make a model and ask it everything; return its scores by side and task."""
    from src.export.unmade import Unmade

    evaluator = _evaluator(folder)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "model"
        Unmade(folder, proposal).make(target, "")
        found = {}
        for side, asked in zip(SIDES, (evaluator, evaluator.holdout), strict=True):
            evaluation = asked.evaluate(target)
            found[side] = {STANDARD: evaluation.average, **evaluation.scores}
    return found


_EVALUATORS: dict[Path, Any] = {}


def _evaluator(folder: Path) -> Any:
    from pydantic import TypeAdapter

    from src.config import Evaluate
    from src.evaluation.evaluator import Evaluator
    from src.journal import run_state

    if folder not in _EVALUATORS:
        state = run_state(folder)
        assert state is not None
        settings = (state.started or {})["settings"]
        asked = TypeAdapter(Evaluate).validate_python(settings["evaluate"])
        _EVALUATORS.clear()
        _EVALUATORS[folder] = Evaluator(asked, seed=settings["seed"])
    return _EVALUATORS[folder]


def table(families: Sequence[Sequence[Made]], side: str) -> str:
    """Return the errors on a side in Markdown: the average, all tasks, and a row a task."""
    head = ["", "root mean square error", "family's mean error taken out", "mean error", "within 95 %"]
    rows = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    tasks = list(dict.fromkeys(name for made in families for one in made for name in one.predicted))[1:]
    rows.append(_row("average of the tasks", families, side, [STANDARD]))
    rows.append(_row("single tasks, all", families, side, tasks))
    return "\n".join([*rows, *(_row(name, families, side, [name]) for name in tasks)])


def _row(title: str, families: Sequence[Sequence[Made]], side: str, names: Sequence[str]) -> str:
    off, apart, inside = [], [], []
    for made in families:
        for name in names:
            here = [one.predicted[name][0] - one.found[side][name] for one in made]
            off += here
            apart += [one - fmean(here) for one in here]
            inside += [one.predicted[name][1] <= one.found[side][name] <= one.predicted[name][2] for one in made]
    figures = [f"{_root(off):.2f}", f"{_root(apart):.2f}", f"{fmean(off):+.2f}", f"{fmean(inside):.0%}"]
    return f"| {title} | {' | '.join(figures)} |"


def _root(errors: Sequence[float]) -> float:
    return math.sqrt(fmean(one**2 for one in errors))


if __name__ == "__main__":
    main()
