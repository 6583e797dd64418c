"""Proposals with a merge of their own: made, recorded, resumed, rebuilt and exported like any other."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file

from src.export.card import multi_recipe
from src.journal import events_of, replay
from src.rebuild import main as rebuild
from tests.conftest import Command
from tests.test_mistakes import check_refused

ROOT = Path(__file__).parent.parent

OWN = (
    "strategy=greedy_topk",
    "~strategy.k",
    "strategy.name=tests.mixtures.Mixtures",
    "merge=task_arithmetic",
    "keep=all",
    "stop.evaluations=null",
    "stop.gain=null",
)


def test_recipes_go_all_the_way(evolve: Command, tmp_path: Path, family: Path) -> None:
    first = evolve(*OWN, "stop.generations=2")
    assert first.status == 0, first.err
    run = tmp_path / "outputs/run"
    assert evolve(*OWN, "stop.generations=3", "resume=force").status == 0
    state = replay(events_of(run))
    made = state.population["3-1"]
    assert made.failure is None
    assert made.merge is not None
    assert made.predicted is not None
    assert made.predicted.value == 52.0
    recipe = made.recipe
    assert recipe is not None
    assert {entry["model"] for entry in recipe["config"]["models"]} == {"1-1", "red", "green", "blue"} | {*made.parents}

    found = load_file(run / "models/3-1/model.safetensors")
    base = load_file(family / "base/model.safetensors")
    parents = {name: load_file(family / name / "model.safetensors") for name in made.parents if name != "1-1"}
    parents["1-1"] = load_file(run / "models/1-1/model.safetensors")
    for name, tensor in found.items():
        place = 1 if "norm" in name else 2 if "self_attn" in name else 3 if "mlp" in name else 0
        weights = [0.1, 0.1, 0.2, 0.2]
        wanted = base[name] + sum(
            (0.5 if parent == "1-1" else weights[place]) * (values[name] - base[name])
            for parent, values in parents.items()
        )
        np.testing.assert_allclose(tensor, wanted, atol=2e-6)

    before = (run / "models/3-1/model.safetensors").read_bytes()
    for name in ("3-1", "1-1"):
        shutil.rmtree(run / "models" / name)
    assert rebuild([str(run), "3-1"]) == 0
    assert (run / "models/3-1/model.safetensors").read_bytes() == before

    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "recipe.yaml").write_text(multi_recipe(state, "3-1", state.sources))
    assert [document.get("name") for document in yaml.safe_load_all((fresh / "recipe.yaml").read_text())] == [
        "1-1",
        None,
    ]
    options = "--random-seed 0 --no-copy-tokenizer --no-write-model-card"
    command = f"-m src.models.methods recipe.yaml --intermediate-dir merges --out-path made {options}"
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=fresh,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (fresh / "made/model.safetensors").read_bytes() == before


def test_a_merge_of_its_own_is_checked_before_any_work(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(*OWN, "stop.generations=1", "strategy.name=tests.mixtures.Mistaken")
    check_refused(outcome, "strategy.merge.parameters.strength: wudi has no such parameter")
    assert not (tmp_path / "outputs").exists()
