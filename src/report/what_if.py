"""What a merge with other weights would score, as far as the run's answers tell: a slider for each direction."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from src.evaluation.predicted import problem
from src.pages.document import Section, Sliders
from src.pages.text import number
from src.report.run_data import RunData
from src.runtime.errors import UserError
from src.strategy import RecipeSearch
from src.strategy.recipes import weights_of

if TYPE_CHECKING:
    from src.strategy.problem import Problem

LARGEST = 1_500_000
"""Bytes that the panel may add to the page."""
TITLE = "What if?"


def section(run: RunData) -> Section | None:
    """Return sliders for the weights of the run's directions; None for a run that predicts nothing."""
    if not isinstance(run.strategy, RecipeSearch):
        return None
    try:
        known = problem(run.folder, run.state, run.strategy, run.grams)
    except UserError as error:
        return Section("what-if", TITLE, [f"No panel: {error}."])
    size = 4 * known.process.alpha.numel() * 4 // 3
    if size > LARGEST:
        much = f"A panel of sliders would make this page {size / 1e6:.0f} MB larger and was left out"
        return Section("what-if", TITLE, [f"{much}; python -m src.tradeoff has what it would tell."])
    words = (
        "A weight for the whole of each founder, and of each merge by another method, of what it changed in the base. "
        "From what all evaluated models answered, the page predicts what the merge would score on the samples that "
        "steered; ± and the thin lines are 95 % intervals, wide where nothing near was evaluated.",
        "The orange line is the winner, as it was found, the ring the founder that is best at the task. The sliders "
        "start at the winner's mean weights; its own may differ from block to block.",
    )
    return Section("what-if", TITLE, words, sliders=_sliders(run, known))


def _sliders(run: RunData, known: Problem) -> Sliders:
    tasks = known.questions.tasks
    best = [max(founder.scores[task] for founder in run.founders) for task in tasks]
    winner = [run.winner.scores[task] for task in tasks]
    rows = [(task, number(a, ".1f"), number(b, ".1f")) for task, a, b in zip(tasks, winner, best, strict=True)]
    data = {
        **process_data(known),
        **_scores_data(run, known),
        "found": winner,
        "specialists": best,
        "winner": run.winner.average,
        "models": [_model(run, name) for name in known.directions],
        "settings": _settings(run),
    }
    return Sliders(_start(run, known), known.climb.low, known.climb.high, rows, ("winner", "best founder"), data)


def _start(run: RunData, known: Problem) -> dict[str, float]:
    """Return the winner's mean weight of each direction: a block counts as much as the direction changed there.

    Of a direction that is a merge the method that made it follows its name.
    """
    made = {name: run.population[name].merge for name in known.directions}
    names = [name if merge is None else f"{name}, {merge['method']}" for name, merge in made.items()]
    recipe = weights_of(run.winner, known.directions, known.blocks)
    if recipe is None:
        return dict.fromkeys(names, 0.0)
    sizes = np.einsum("bii->ib", known.process.space.grams)
    means = (recipe * sizes).sum(1) / np.maximum(sizes.sum(1), 1e-300)
    return dict(zip(names, means.round(2).tolist(), strict=True))


def process_data(known: Problem) -> dict[str, Any]:
    """Return what the page needs to predict the answers of merges with a weight [n] for each whole direction."""
    import torch

    from src.surrogate import kernel

    process = known.process
    weight, linear, reach = kernel.read(process.hyper)
    noise = kernel.noise(process.hyper)
    whole = torch.eye(len(known.directions), dtype=torch.float64)[:, :, None].expand(-1, -1, len(weight))
    inner = torch.einsum("b,ben->en", weight, process.space.inner(process.recipes, whole))
    gram = torch.einsum("b,bnm->nm", weight, process.space.inner(whole, whole))
    precision = torch.cholesky_inverse(process.chol) * process.known[:, :, None] * process.known[:, None, :]
    answers = process.answers().nan_to_num()  # of those not asked the precision is 0
    first = torch.from_numpy(known.questions.first)
    groups = [int(np.flatnonzero(known.questions.task == task)[0]) for task in range(len(known.questions.tasks))]
    return {
        "inner": inner.tolist(),
        "gram": gram.tolist(),
        "squares": (weight @ process.space.squares(process.recipes)).tolist(),
        "linear": float(linear),
        "reach": float(reach),
        "noise": float(noise),
        "answers": _packed(answers.numpy(), "<f4"),
        "precision": _packed(precision.numpy(), "<f8"),
        "part": _packed(process.part[first].numpy(), "<u2"),
        "shares": (torch.bincount(process.part, minlength=len(process.known)) / len(process.part)).tolist(),
        "unit": process.unit[first][groups].tolist(),
    }


def _scores_data(run: RunData, known: Problem) -> dict[str, Any]:
    """Return how answers make scores, and how far predictions of these are off."""
    from src.surrogate import kernel, objectives, proposals, scoring

    asked, process = known.questions, known.process
    weights = np.array([run.population.weights.get(task, 1.0) for task in asked.tasks])
    nodes, shares = scoring.quadrature()
    unknown = float((process.spread(process.recipes[:1]) ** 2 + kernel.noise(process.hyper)).sqrt())

    def error(counted: np.ndarray) -> float:
        """Return half the 95 % interval of an average, in points over what the answers' deviation is to their own."""
        (found,) = proposals.judge(process, known.scorer, objectives.average(counted.tolist()), process.recipes[:1])
        return 100 * (found.high - found.expected) / unknown

    return {
        "task": _packed(asked.task, "<u2"),
        "choices": _packed(asked.choices, "<u2"),
        "gold": _packed(asked.gold, "<u2"),
        "weight": _packed(asked.weight, "<f4"),
        "nodes": nodes.tolist(),
        "nodeShares": shares.tolist(),
        "errors": [error(one) for one in np.eye(len(asked.tasks))],
        "average": (weights / weights.sum()).tolist(),
        "error": error(weights),
    }


def _packed(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def _model(run: RunData, name: str) -> dict[str, str]:
    """Return how a direction is named in a recipe, and the merge that makes it, if it is one."""
    model = run.population[name]
    if model.founder:
        return {"source": json.dumps(run.state.sources[name]), "made": ""}
    made = {"name": name, **_sourced(run, (model.recipe or {})["config"])}
    return {"source": json.dumps(name), "made": yaml.safe_dump(made, sort_keys=False) + "---\n"}


def _settings(run: RunData) -> str:
    """Return the rest of a recipe's merge: as the run has made its own."""
    configs = (dict((model.recipe or {}).get("config") or {}) for model in run.offspring)
    plain = {"merge_method": "task_arithmetic", "parameters": {"lambda": 1.0, "normalize": False}, "base_model": "base"}
    config = next((one for one in configs if one.get("merge_method") == "task_arithmetic"), plain)
    return str(yaml.safe_dump({k: v for k, v in _sourced(run, config).items() if k != "models"}, sort_keys=False))


def _sourced(run: RunData, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what the user brought by its folder or hub name."""
    sources = run.state.sources
    found = dict(config)
    for key in ("base_model", "tokenizer_source"):
        if config.get(key) in sources:
            found[key] = sources[config[key]]
    models = config.get("models", ())
    found["models"] = [{**one, "model": sources.get(one["model"], one["model"])} for one in models]
    return found
