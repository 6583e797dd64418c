"""What the plan says of merges by our own methods."""

import re
from pathlib import Path

import numpy as np
import pytest

from src.models.checkpoint import Checkpoint, open_checkpoint
from src.models.methods import METHODS, cost, forecast
from tests.checkpoints import CONFIG, write_checkpoint
from tests.conftest import Command

OWN = [method.spec.name for method in METHODS if method.spec.name in cost.METHODS]
RATES = cost.Rates(multiply=1e9, decompose=1e8, move=1e8)
SHAPES = {"model.embed_tokens.weight": (1000, 64), "model.layers.0.mlp.up_proj.weight": (128, 64)}


@pytest.mark.parametrize("method", OWN)
def test_the_plan_says_what_a_merge_takes(method: str, evolve: Command) -> None:
    plan = evolve("dry_run=true", "strategy=one_shot", f"merge={method}").out
    assert re.search(rf"a merge of 4 by {method}: about [\d.]+ s here \(cpu, 1 thread\), [\d.]+ GiB at its peak", plan)


def test_the_plan_says_what_calibration_takes_in_addition(evolve: Command) -> None:
    plan = evolve("dry_run=true", "strategy=one_shot", "merge=ties", "merge.treatment.svc=1").out
    assert re.search(r"svc of a merge of 4 in addition: about [\d.]+ s here", plan)
    assert "a merge of 4 by" not in plan
    assert "svc of a merge" not in evolve("dry_run=true", "merge=ties", "merge.treatment.scale=2").out
    assert "svc of a merge" in evolve("dry_run=true", "strategy=one_shot", "merge=tsv_m", "merge.parameters.svc=1").out


def test_the_plan_predicts_the_kinship_of_treated_offspring_or_says_that_it_cannot(evolve: Command) -> None:
    first = r"red × green\s+(-?[\d.]+)"
    plain, treated = (
        re.search(first, evolve("dry_run=true", "strategy=greedy_topk", *given).out)
        for given in ((), ("merge.treatment.lines.beta=3",))
    )
    assert plain
    assert treated
    assert plain[1] != treated[1]
    assert "does not allow to predict it" in evolve("dry_run=true", "merge.treatment.svc=1").out


def test_the_plan_knows_nothing_of_what_mergekit_s_methods_take(evolve: Command) -> None:
    assert "a merge of" not in evolve("dry_run=true", "merge=slerp").out


@pytest.mark.parametrize("method", OWN)
def test_more_costs_more(method: str) -> None:
    few, many = (cost.cost(method, SHAPES, founders, 2, RATES) for founders in (2, 8))
    wide = cost.cost(method, {name: (2 * rows, 2 * columns) for name, (rows, columns) in SHAPES.items()}, 2, 2, RATES)
    fast = cost.cost(method, SHAPES, 2, 2, cost.Rates(*(2 * rate for rate in (1e9, 1e8, 1e8))))
    assert few.seconds < many.seconds
    assert few.peak < many.peak
    assert few.seconds < wide.seconds
    assert fast.seconds == pytest.approx(few.seconds / 2)


def test_rates_are_measured() -> None:
    found = cost.rates("cpu", 1)
    assert min(found.multiply, found.decompose, found.move) > 1e6


def checkpoint(folder: Path, base: np.ndarray, delta: np.ndarray | float, dtype: str) -> Checkpoint:
    weights = {f"model.layers.{layer}.mlp.up_proj.weight": base + delta for layer in range(3)}
    weights["model.layers.0.mlp.down_proj.weight"] = base  # what an adapter leaves alone tells nothing
    return open_checkpoint(write_checkpoint(folder, weights, dtype=dtype, config=CONFIG))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("rank", [8, 32, 300])
def test_adapters_are_told_from_full_fine_tunes(rank: int, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((320, 300)) * 0.04
    low = rng.standard_normal((320, rank)) @ rng.standard_normal((rank, 300)) / rank**0.5 * 0.004
    ancestor = checkpoint(tmp_path / "base", base, 0.0, dtype)
    founder = checkpoint(tmp_path / "founder", base, low, dtype)
    assert forecast.adapter_like(ancestor, founder) == (rank < 64)
    assert not forecast.adapter_like(ancestor, ancestor)
    lines = forecast.forecast("tsv_m", ancestor, {"founder": founder}, 2, device="cpu", threads=1)
    assert any("looks like a merged adapter" in line for line in lines) == (rank < 64)
    assert len(forecast.forecast("wudi", ancestor, {"founder": founder}, 2, device="cpu", threads=1)) == 1
