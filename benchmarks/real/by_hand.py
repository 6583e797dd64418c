"""One candidate as it is made without this project: three command-line programs, one after another.

mergekit-yaml merges, lm_eval evaluates (it asks all samples of a task, which are both sides of a holdout), and kinship
is computed by the published tool's arithmetic, with every model loaded once.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.real.family import Family
from benchmarks.real.programs import Cost, run, script
from benchmarks.real.questions import DRAWS


def lm_eval(family: Family, model: Path, batch_size: str, work: Path) -> tuple[Cost, dict[str, float]]:
    """Evaluate a model on all samples of every task; return what it took, and the accuracies, ×100."""
    results = work / f"{model.name}-results"
    shutil.rmtree(results, ignore_errors=True)
    command = script(
        "lm_eval.__main__",
        "cli_evaluate",
        *("--model", "hf", "--model_args", f"pretrained={model.resolve()}", "--tasks", ",".join(DRAWS)),
        *("--include_path", str(family.tasks.resolve()), "--batch_size", batch_size, "--device", family.device),
        *("--output_path", str(results.resolve())),
    )
    cost = run(command, work / f"lm_eval-{model.name}.log", family.device)
    found = json.loads(next(results.rglob("results*.json")).read_text(encoding="utf-8"))["results"]
    return cost, {task: 100 * float(found[task]["acc,none"]) for task in DRAWS}


def candidate(
    family: Family, weight: float, batch_size: str, work: Path
) -> tuple[Mapping[str, Cost], dict[str, float]]:
    """Merge all founders by task arithmetic, evaluate the merge, and measure its kinship to each of them.

    Returns:
        What each of the programs took, by its name; and the merge's accuracies on all samples, ×100.
    """
    work.mkdir(parents=True, exist_ok=True)
    made, config = work / "made", work / "merge.yaml"
    shutil.rmtree(made, ignore_errors=True)
    config.write_text(yaml.safe_dump(_task_arithmetic(family, weight), sort_keys=False))
    cuda = ["--cuda"] if family.device.startswith("cuda") else []
    merging = script("mergekit.scripts.run_yaml", "main", str(config.resolve()), str(made.resolve()), *cuda)
    models = [str(one.resolve()) for one in (family.base, made, *family.founders.values())]
    measuring: Sequence[str] = [sys.executable, "-m", "benchmarks.kinship", "--alone", "once", *models]
    costs = {"mergekit-yaml": run(merging, work / "mergekit-yaml.log", family.device)}
    costs["lm_eval"], scores = lm_eval(family, made, batch_size, work)
    costs["kinship"] = run(measuring, work / "kinship.log")
    shutil.rmtree(made)
    return costs, scores


def _task_arithmetic(family: Family, weight: float) -> dict[str, object]:
    """Return mergekit's configuration: the base plus the weighted sum of the founders' deltas."""
    founders = [
        {"model": str(folder.resolve()), "parameters": {"weight": weight}} for folder in family.founders.values()
    ]
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(family.base.resolve()),
        "models": founders,
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }
