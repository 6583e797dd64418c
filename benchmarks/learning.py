"""Learned recipes beside fine-tuning: python -m benchmarks.learning [METHOD …] [--seeds 0-9] [--samples 10 30 100].

Every method starts from the WUDI merge of a family of the embedded kind, and learns from the same samples, in the
same batches, with the same kept back. Its checkpoint with the lowest loss on these is scored on the holdout, at every
budget: evaluations' worth of samples that went through the model (of 1000 each, backwards counted twice), the founders'
five evaluations and WUDI's one included. With --left-out, one founder's tasks are not learned from (another founder's
in every family), and what becomes of them is told beside the others. What is finished is not run again, so that the
command can be interrupted.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks import learners
from benchmarks.search import _add_zoo, _family, _front_door, _numbers

if TYPE_CHECKING:
    import torch

    from src.evaluation.evaluator import Evaluator

METHODS: Mapping[str, Mapping[str, Any]] = {
    "recipe-tensor": {"blocks": "tensor"},
    "recipe-layer": {"blocks": "layer"},
    "recipe-part": {"blocks": "part"},
    "recipe-whole": {"blocks": "whole"},
    "recipe-tensor-prior": {"blocks": "tensor", "prior": 1.0},
    "recipe-tensor-prior-10": {"blocks": "tensor", "prior": 10.0},
    "recipe-tensor-prior-100": {"blocks": "tensor", "prior": 100.0},
    "recipe-founders": {"blocks": "tensor", "directions": ()},
    "recipe-tsv": {"blocks": "tensor", "directions": ("wudi", "tsv_m")},
    "recipe-small": {"blocks": "tensor", "batch": 16, "steps": 30},
    "weights-small": {"rate": 1e-4, "batch": 16, "steps": 30},
    "recipe-agreement": {"blocks": "tensor", "objective_loss": "agreement"},
    "recipe-entropy": {"blocks": "tensor", "objective_loss": "entropy"},
    "weights": {"rate": 1e-4},
    "lora": {"rate": 2e-3, "rank": 8},
    "recipe-choice": {"blocks": "tensor", "objective_loss": "choice"},
    "weights-choice": {"rate": 1e-4, "objective_loss": "choice"},
    "lora-choice": {"rate": 2e-3, "rank": 8, "objective_loss": "choice"},
    "weights-agreement": {"rate": 1e-4, "objective_loss": "agreement"},
    "weights-entropy": {"rate": 1e-4, "objective_loss": "entropy"},
    "lora-agreement": {"rate": 2e-3, "rank": 8, "objective_loss": "agreement"},
}
"""All that is compared: what differs from the strategy's defaults, and rates of AdamW for what is fine-tuned."""
PRICE = 1000
"""Samples of an evaluation: half of every task's 200, of ten tasks."""
BEFORE = 6
"""Evaluations that everybody needs first: the founders' and the merge's."""


@dataclass(frozen=True)
class Point:
    """What a method had after some gradient steps."""

    steps: int
    evaluations: float
    """Evaluations' worth of samples by then."""
    kept_back: float
    holdout: float | None
    """In points; None where an earlier one did better on what was kept back."""
    kept: float | None
    """Of the specialists' scores on the holdout, the mean over tasks, in percent."""
    seconds: float
    """Of learning, without the holdout."""
    peak: int = 0
    """Bytes of GPU memory at most; 0 without one."""
    left_out: float | None = None
    """In points on the holdout, over the tasks that were not learned from, which `holdout` then leaves out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; all by default")
    parser.add_argument("--seeds", default="0-9", help="families, as FIRST-LAST or a list with commas")
    parser.add_argument("--samples", nargs="+", type=int, default=[10, 30, 100], help="of every task")
    parser.add_argument("--steps", type=int, default=100, help="gradient steps")
    parser.add_argument("--budgets", nargs="+", type=float, default=[10, 14, 20, 25], help="evaluations' worth")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0], help="in place of a method's own, unless 0")
    parser.add_argument("--left-out", action="store_true", help="do not learn from one founder's tasks")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/learning"))
    _add_zoo(parser)
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.methods) - {*METHODS}):
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    names, seeds = options.methods or list(METHODS), _numbers(options.seeds)
    runs = [(name, samples, rate) for samples in options.samples for name in names for rate in options.rates]
    for seed in seeds if not options.only_print else ():
        family = None
        for run in runs:
            place = _place(options, run, seed)
            if not place.exists():
                family = family or Family.of(seed, options)
                place.parent.mkdir(parents=True, exist_ok=True)
                points = list(family.curve(*run, options.steps, left_out=options.left_out))
                place.write_text(json.dumps([asdict(point) for point in points]))
                best = [point for point in points if point.holdout is not None][-1]
                print(f"{place.stem}: {best.holdout:.1f} after {best.steps} steps", file=sys.stderr, flush=True)
    print(_table(options, runs, seeds))


def _place(options: argparse.Namespace, run: tuple[str, int, float], seed: int) -> Path:
    name, samples, rate = run
    path: Path = (
        options.outputs
        / f"{name}-{samples}-{rate or 'own'}-{options.steps}-{seed}{'-left-out' * options.left_out}.json"
    )
    return path


@dataclass(frozen=True, eq=False)
class Family:
    """A family, its WUDI merge, and who asks its models."""

    seed: int
    folders: Mapping[str, Path]
    """Of the base, the founders, and their merges `wudi` and `tsv_m`."""
    evaluator: Evaluator
    founders: Mapping[str, Mapping[str, float]]
    """Their scores on the holdout, by task."""
    specialists: Mapping[str, str]
    """Of every task, the founder that is best on what steers."""

    @classmethod
    def of(cls, seed: int, options: argparse.Namespace) -> Family:
        """Merge the founders through the front door, unless that was done."""
        from hydra import compose, initialize_config_dir

        from src import config
        from src.evaluation.evaluator import Evaluator
        from src.journal import run_state

        folders = {}
        common = [_family(options, seed), f"zoo.seed={seed}", f"seed={seed}", f"outputs={options.outputs}", "keep=all"]
        common += ["track=none", "workers.threads=1", "strategy=one_shot"]
        for merge in ("tsv_m", "wudi"):
            own = [f"merge={merge}", f"name={merge}-{seed}"]
            if _front_door(*common, *own, log=options.outputs / f"{merge}-{seed}.log"):
                raise SystemExit(f"see {options.outputs / merge}-{seed}.log")
            folders[merge] = options.outputs / f"{merge}-{seed}/models/1-1"
        with initialize_config_dir(str(Path(__file__).parent.parent / "conf")):
            settings = config.read(compose("config", [*common, *own]))
        state = run_state(options.outputs / f"wudi-{seed}")
        assert state is not None
        founders = {model.name: model.scores for model in state.population if model.founder}
        return cls(
            seed,
            {name: Path(source) for name, source in state.sources.items()} | folders,
            Evaluator(settings.evaluate, seed=seed),
            {name: state.holdout[name].scores for name in founders},
            {task: max(founders, key=lambda one: founders[one][task]) for task in next(iter(founders.values()))},
        )

    def curve(self, name: str, samples: int, rate: float, steps: int, *, left_out: bool = False) -> Iterator[Point]:
        """Yield what a method has at every look, the first before any step."""
        import torch

        from src.evaluation.model import ReusableModel
        from src.learning.samples import Division
        from src.learning.samples import samples as samples_of
        from src.strategy.recipe_gradient import RecipeGradient

        different = dict(METHODS[name])
        if rate:
            different["rate"] = rate
        extra = {key: different.pop(key, None) for key in ("directions", "rank")}
        how = RecipeGradient(name="recipe_gradient", seed=self.seed, samples=samples, total=steps)
        how = replace(how, **different)
        how = replace(how, total=steps * 48 // how.batch)  # as many samples
        targets = self._agreement() if how.objective_loss == "agreement" else None
        found, weights = samples_of(self.evaluator, how.objective_loss, targets)
        unseen = self._unseen() if left_out else set()
        found = [one for one in found if one.task not in unseen]
        weights = {task: weight for task, weight in weights.items() if task not in unseen}
        division = Division.of(found, weights, share=how.kept_back, most=samples, seed=self.seed)
        asked = self.evaluator._settings
        model = ReusableModel(self.folders["wudi"], None, asked, self._devices(), seed=self.seed, remote_code=False)
        if name.startswith("recipe"):
            made = ("wudi",) if extra["directions"] is None else extra["directions"]
            left = {"base", "wudi", "tsv_m"} - {*made}
            directions = {one: folder for one, folder in self.folders.items() if one not in left}
            looks = learners.recipe(model, division, how, self.folders["base"], directions, "wudi" if made else 0.4)
        else:
            looks = learners.fine_tuned(model, division, how, extra["rank"])
        best, spent = float("inf"), 0.0
        while True:
            began = time.monotonic()
            look = next(looks, None)
            spent += time.monotonic() - began
            if look is None:
                break
            count = look.steps // how.steps + 1
            passes = 3 * look.steps * how.batch + count * division.kept_count
            scores = None
            if look.kept_back < best:
                best = look.kept_back
                scores = self._scores({name: one.clone() for name, one in look.tensors().items()}, unseen)
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            holdout, kept, others = scores or (None, None, None)
            yield Point(look.steps, BEFORE + passes / PRICE, look.kept_back, holdout, kept, spent, peak, others)
        del model
        gc.collect()

    def _unseen(self) -> set[str]:
        """Return the tasks of one founder, of another in every family; of the founders that are best at any."""
        owners = sorted(set(self.specialists.values()))
        return {task for task, owner in self.specialists.items() if owner == owners[self.seed % len(owners)]}

    def _scores(self, tensors: dict[str, torch.Tensor], unseen: set[str]) -> tuple[float, float, float | None]:
        """Return the holdout's mean over tasks, the share of specialists' scores in percent, and the mean of unseen."""
        from src.population import normalised_average, skills

        assert self.evaluator.holdout is not None
        scores = self.evaluator.holdout.evaluate(self.folders["wudi"], tensors).scores
        seen = {task: score for task, score in scores.items() if task not in unseen}
        others = [scores[task] for task in unseen]
        kept = normalised_average(skills(self.founders, seen))
        return fmean(seen.values()), kept, fmean(others) if others else None

    def _agreement(self) -> dict[tuple[str, int], Any]:
        """Return what every task's specialist answers, as probabilities."""
        import numpy as np

        targets = {}
        for name in sorted(set(self.specialists.values())):
            answers = self.evaluator.evaluate(self.folders[name]).answers
            assert answers is not None
            asked = answers.questions
            for key, first, choices in zip(asked.ids, asked.first, asked.choices, strict=True):
                if self.specialists[key[0]] == name:
                    said = answers.values[first : first + choices].astype(float)
                    chances = np.exp(said - said.max())
                    targets[key] = chances / chances.sum()
        return targets

    def _devices(self) -> tuple[str, ...]:
        import torch

        return ("cuda:0",) if torch.cuda.is_available() else ("cpu",)


def _table(options: argparse.Namespace, runs: Sequence[tuple[str, int, float]], seeds: Sequence[int]) -> str:
    rows = [
        f"| method | samples | families | {' | '.join(f'{one:g}' for one in options.budgets)} | kept | s a step |"
        + " not learned from |" * options.left_out,
        f"| --- | ---: | ---: |{' --- |' * len(options.budgets)} ---: | ---: |" + " --- |" * options.left_out,
    ]
    for run in runs:
        known = {}
        for seed in seeds:
            if (place := _place(options, run, seed)).exists():
                known[seed] = [Point(**one) for one in json.loads(place.read_text())]
        if not known:
            continue
        cells = []
        start = {seed: points[0] for seed, points in known.items()}
        for budget in options.budgets:
            best = {seed: _best(points, budget) for seed, points in known.items()}
            cells.append(_compared([point.holdout for point in best.values()], [one.holdout for one in start.values()]))
        kept = fmean(point.kept or 0.0 for point in best.values())
        step = fmean(points[-1].seconds / max(points[-1].steps, 1) for points in known.values())
        name = run[0] + (f", rate {run[2]:g}" if run[2] else "")
        row = f"| {name} | {run[1]} | {len(known)} | {' | '.join(cells)} | {kept:.0f} % | {step:.2f} |"
        if options.left_out:
            row += f" {_compared([one.left_out for one in best.values()], [one.left_out for one in start.values()])} |"
        rows.append(row)
    title = "holdout in points by evaluations' worth (on its start, 95 % over families); skills kept at the last budget"
    return f"\n{title}\n\n" + "\n".join(rows)


def _compared(found: Sequence[float | None], start: Sequence[float | None]) -> str:
    """Return a mean over families, and how it compares with the start's, family by family."""
    from src.statistics import compare_configurations

    now, before = (dict[Hashable, float](enumerate(one or 0.0 for one in scores)) for scores in (found, start))
    text = f"{fmean(now.values()):.1f}"
    if len(now) > 1 and now != before:
        paired = compare_configurations(now, before)
        text += f" ({paired.difference:+.1f}, {paired.low:+.1f} to {paired.high:+.1f})"
    return text


def _best(points: Sequence[Point], budget: float) -> Point:
    """Return the point that did best on what was kept back within a budget; the start where nothing else is."""
    within = [point for point in points if point.evaluations <= budget] or [points[0]]
    return min(within, key=lambda point: point.kept_back)


if __name__ == "__main__":
    main()
