"""What is learned from the samples that steer: a recipe's weights, or, as an expert would, all weights or a LoRA.

All start from the WUDI merge that `recipe_gradient` started from, with that run's samples, batches, steps and patience.
Each learns in a process of its own that does nothing else, so that its memory is that of learning; what it had at its
best look, by the samples kept back, is written as a checkpoint, and another process scores that on the holdout.

    python -m benchmarks.real.learned learn METHOD START FOLDER OVERRIDE…
    python -m benchmarks.real.learned score CHECKPOINT FILE OVERRIDE…
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import learners
from benchmarks.real.family import Family
from benchmarks.real.programs import ROOT, Cost, run
from benchmarks.real.table import Row, runs
from src.runtime.files import write_text
from src.runtime.progress import note

if TYPE_CHECKING:
    import torch

    from src.config import Settings
    from src.evaluation.base import Evaluation

METHODS: Mapping[str, Mapping[str, Any]] = {
    "recipe": {},
    "weights-1e-4": {"rate": 1e-4},
    "weights-3e-5": {"rate": 3e-5},
    "lora-2e-3": {"rate": 2e-3, "rank": 8},
    "lora-5e-4": {"rate": 5e-4, "rank": 8},
}
"""What differs from the strategy's settings: AdamW's rate, and the rank of a LoRA."""


@dataclass(frozen=True)
class Learned:
    """What a method came to. Averages are in points, shares between 0 and 1."""

    name: str
    steps: int
    """Gradient steps until it ended."""
    best: int
    """Steps at its best look."""
    worth: float
    """Evaluations' worth of samples that went through the model, backwards counted twice."""
    kept_back: tuple[float, float]
    """Loss on the samples kept back, of the start and of the best look."""
    seconds: float
    """Of the steps and the looks."""
    cost: Cost
    """Of the process that learned, imports and the checkpoint included."""
    holdout: float
    stderr: float
    gain: tuple[float, float, float]
    """The holdout minus the start's, on the same samples, with its 95 % interval."""
    kept: float
    """Mean share of the specialists' scores, on the holdout."""
    worst: float
    """The lowest task, on the holdout."""


def all_methods(family: Family, row: Row, common: Sequence[str]) -> Iterator[Learned]:
    """Yield what every method comes to, learning whatever is not known yet.

    Args:
        family: what is learned on.
        row: of the run of `recipe_gradient` whose start, samples and steps they share.
        common: the overrides that all runs share.
    """
    start, place = _start(runs(family) / row.name), runs(family) / "learned"
    for name in METHODS:
        folder = place / name
        kept = folder / "row.json"
        if not kept.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            note(f"learning: {name}")
            before = _scored(family, start, place / "start.json", [*row.own, *common])
            write_text(kept, json.dumps(asdict(_learn(family, row, name, folder, start, before, common)), indent=1))
        content = json.loads(kept.read_text(encoding="utf-8"))
        for pair in ("kept_back", "gain"):
            content[pair] = tuple(content[pair])
        yield Learned(**content | {"cost": Cost(**content["cost"])})


def _start(folder: Path) -> Path:
    """Return the folder of the merge that a run of `recipe_gradient` started from, the first of its candidates."""
    from src.journal import run_state

    state = run_state(folder)
    assert state is not None
    first = next(model for model in state.population if not model.founder)
    return folder / "models" / first.name


def _learn(
    family: Family, row: Row, name: str, folder: Path, start: Path, before: Evaluation, common: Sequence[str]
) -> Learned:
    from src.population import normalised_average, skills, worst
    from src.statistics import compare_models

    words, log = [*row.own, *common], runs(family) / f"learned-{name}.log"
    program = [sys.executable, "-m", "benchmarks.real.learned", "learn", name, str(start), str(folder)]
    cost = run([*program, *words], log, family.device)
    found = _scored(family, folder / "model", folder / "holdout.json", words)
    shutil.rmtree(folder / "model")
    told = json.loads((folder / "looks.json").read_text(encoding="utf-8"))
    looks = told["looks"]
    best = min(looks, key=lambda look: float(look["kept_back"]))
    over = compare_models(found.samples, before.samples, weights=found.weights)
    skill = skills(row.founders["holdout"], found.scores)
    return Learned(
        name,
        steps=looks[-1]["steps"],
        best=best["steps"],
        worth=told["passes"] / told["samples"],
        kept_back=(looks[0]["kept_back"], best["kept_back"]),
        seconds=looks[-1]["seconds"],
        cost=cost,
        holdout=found.average,
        stderr=found.stderr,
        gain=(over.difference, over.low, over.high),
        kept=normalised_average(skill) / 100,
        worst=worst(skill).score,
    )


def _scored(family: Family, checkpoint: Path, kept: Path, words: Sequence[str]) -> Evaluation:
    """Return what a checkpoint has on the holdout, scoring it in a process of its own if that is not known."""
    from src.evaluation.base import Evaluation
    from src.runtime import checksums

    if not kept.is_file():
        program = [sys.executable, "-m", "benchmarks.real.learned", "score", str(checkpoint), str(kept)]
        run([*program, *words], kept.with_suffix(".log"), family.device)
    content = dict(checksums.load(kept.read_bytes()))
    del content["key"]
    return Evaluation.from_dict(content)


def learn(name: str, start: Path, folder: Path, words: Sequence[str]) -> None:
    """Learn by a method, and leave in the folder its looks and, as `model`, the checkpoint of the best."""
    from src.evaluation.evaluator import Evaluator
    from src.evaluation.model import ReusableModel
    from src.learning.samples import Division, samples
    from src.strategy.recipe_gradient import RecipeGradient

    settings, different = _settings(words), dict(METHODS[name])
    rank = different.pop("rank", None)
    how = RecipeGradient(**{**asdict(settings.strategy), **different})
    devices = _devices(settings)
    evaluator = Evaluator(settings.evaluate, seed=settings.seed, devices=devices)
    model = ReusableModel(start, None, settings.evaluate, devices, seed=settings.seed, remote_code=False)
    found, weights = samples(evaluator, how.objective_loss)
    division = Division.of(found, weights, share=how.kept_back, most=how.samples, seed=how.seed)
    base, founders = settings.founders.base, settings.founders.models
    if name == "recipe":
        directions = {name: Path(place) for name, place in founders.items()} | {"start": start}
        looks = learners.recipe(model, division, how, Path(base), directions, "start")
    else:
        looks = learners.fine_tuned(model, division, how, rank)
    told: list[dict[str, float]] = []
    began, best = time.monotonic(), -1
    for look in looks:
        spent = time.monotonic() - began
        told.append({"steps": look.steps, "kept_back": look.kept_back, "seconds": spent})
        print(f"{name} {told[-1]}", flush=True)
        if look.kept_back == min(one["kept_back"] for one in told):
            best = len(told)
            _write(folder / "model", start, look.tensors())
        if len(told) - best >= how.patience:
            break
        began = time.monotonic() - spent  # without what was written
    passes = 3 * told[-1]["steps"] * how.batch + len(told) * division.kept_count
    write_text(folder / "looks.json", json.dumps({"looks": told, "passes": passes, "samples": len(found)}, indent=1))


def score(checkpoint: Path, kept: Path, words: Sequence[str]) -> None:
    """Ask a checkpoint what is held out, and keep what it answered."""
    from src.evaluation.evaluator import Evaluator

    settings = _settings(words)
    evaluator = Evaluator(settings.evaluate, seed=settings.seed, devices=_devices(settings)).holdout
    assert evaluator is not None
    kept.parent.mkdir(parents=True, exist_ok=True)
    evaluator.evaluate(checkpoint).save(kept, "holdout")


def _write(folder: Path, start: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint that has everything but its weights from another."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json"))
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def _settings(words: Sequence[str]) -> Settings:
    from hydra import compose, initialize_config_dir

    from src import config

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return config.read(compose("config", list(words)))


def _devices(settings: Settings) -> tuple[str, ...]:
    import torch

    return ("cuda:0",) if settings.workers.device == "auto" and torch.cuda.is_available() else ("cpu",)


def main(verb: str, first: str, second: str, *rest: str) -> None:
    """Do what the command line asks for."""
    if verb == "learn":
        learn(first, Path(second), Path(rest[0]), rest[1:])
    else:
        score(Path(first), Path(second), rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
