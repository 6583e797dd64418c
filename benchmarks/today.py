"""What an evolution is done with today: three command-line programs for each candidate, one after another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from src.config import Settings
from src.models import merging

ROOT = Path(__file__).parent.parent


def candidate(settings: Settings, number: int) -> tuple[float, float, float]:
    """Time mergekit-yaml, lm_eval and the kinship program for one candidate, imports included; seconds."""
    assert settings.evaluate.include is not None
    founders = {name: Path(source).resolve() for name, source in settings.founders.models.items()}
    parents = list(itertools.combinations(founders, 2))[number % 10]
    recipe = merging.recipe(settings.merge, parents, seed=settings.seed, threads=1)
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="kinmerge-today-") as temporary:
        made = Path(temporary) / "made"
        config = Path(temporary) / "merge.yaml"
        config.write_text(yaml.safe_dump(merging.with_paths(recipe.config, founders)))
        merged_in = seconds([str(programs / "mergekit-yaml"), str(config), str(made)])
        tasks = ",".join(task.name for task in settings.evaluate.tasks)
        limit = ["--limit", str(settings.evaluate.limit)] if settings.evaluate.limit else []
        evaluating = seconds(
            [
                *(str(programs / "lm_eval"), "--model", "hf", "--model_args", f"pretrained={made}"),
                *("--tasks", tasks, "--include_path", str(settings.evaluate.include.resolve())),
                *("--batch_size", str(settings.evaluate.batch_size), "--device", "cpu", *limit),
            ]
        )
        models = [str(founders[parent]) for parent in parents]
        base = str(Path(settings.founders.base).resolve())
        measuring = seconds([sys.executable, "-m", "benchmarks.kinship", "--alone", "once", base, str(made), *models])
    return merged_in, evaluating, measuring


def seconds(command: Sequence[str]) -> float:
    """Return the wall time of a program."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{json.dumps(command)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - began
