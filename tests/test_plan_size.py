"""dry_run=true of many founders, and what rounding does to what it predicts."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src import kinship
from src.kinship import Moved, kinship_matrix, measure, moved, predicted_kinship
from src.models.checkpoint import open_checkpoint
from tests.checkpoints import CONFIG, DTYPES, llama_shapes, random_weights, write_checkpoint
from tests.conftest import Command
from tests.family import write_family
from tests.kinship.test_predict import RECIPES, merged, recipe

STEP = 3e-5
"""About half a step of bfloat16 at weights of 0.02: most weights stay, most others go to the next step."""
SHAPES = llama_shapes(layers=2, hidden=64, mlp=96, vocab=64)
SIZES = CONFIG | {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 64}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("many"), tuple(f"m{i:02d}" for i in range(40)))


def test_predictions_are_asked_only_for_the_pairs_that_are_shown(
    many: Path, evolve: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the plan grows with the pairs, and each prediction with the founders: 200 took minutes and 2 GB."""
    asked = []
    whole = predicted_kinship
    monkeypatch.setattr(kinship, "predicted_kinship", lambda *rest: asked.append(rest) or whole(*rest), raising=False)
    outputs, calls = [], []
    for count in (20, 40):
        founders = tuple(f"m{i:02d}" for i in range(count))
        outcome = evolve("dry_run=true", "strategy.k=4", at=many, founders=founders)
        assert outcome.status == 0, outcome.err
        outputs.append(outcome.out.replace("\n", " "))
        calls.append(len(asked))
        asked.clear()
    assert calls[0] == calls[1] < 20
    assert "the kinship of all 40 founders to each other (python -m src.kinship prints it)" in outputs[1]
    assert "(780 in all)" in outputs[1]
    assert "and 756 more: which depends on the founders' averages" in outputs[1]
    assert len(outputs[1]) < 2 * len(outputs[0])


def test_of_many_founders_the_least_and_the_most_related_are_shown(many: Path, evolve: Command) -> None:
    names = [f"m{i:02d}" for i in range(40)]
    out = evolve("dry_run=true", "strategy.k=4", "merge=linear", at=many, founders=tuple(names)).out
    rows = re.findall(r"(m\d\d) × (m\d\d) +(-?\d\.\d{3}) +(-?\d\.\d{3}) +(-?\d\.\d{3})", out)
    grams = measure(open_checkpoint(many / "base"), {name: open_checkpoint(many / name) for name in names})
    matrix = kinship_matrix(grams, "pcc")
    values = np.sort(matrix[np.triu_indices(40, k=1)])
    np.testing.assert_allclose([float(row[2]) for row in rows], [*values[:5], *values[-5:]], atol=5.1e-4)
    for a, b, _, near, far in rows:
        models = [{"model": name, "parameters": {"weight": 1}} for name in (a, b)]
        found = predicted_kinship(grams, {"merge_method": "linear", "models": models}, "pcc")
        assert found is not None
        assert float(near) == pytest.approx((found[a] + found[b]) / 2, abs=5.1e-4)
        rest = [value for name, value in found.items() if name not in {a, b}]
        assert float(far) == pytest.approx(np.mean(rest), abs=5.1e-4)


def test_all_of_many_founders_in_one_merge_are_planned_too(many: Path, evolve: Command) -> None:
    founders = tuple(f"m{i:02d}" for i in range(40))
    outcome = evolve("dry_run=true", "strategy=one_shot", "merge=linear", at=many, founders=founders)
    assert outcome.status == 0, outcome.err
    assert re.search(r"40 founders +-?\d\.\d{3} +\d\.\d{3}", outcome.out)


# --- rounding --------------------------------------------------------------------------------------------------------


def stepped(folder: Path, dtype: str, scale: float) -> dict[str, Path]:
    """A base of `dtype` and three founders that training has moved by about `scale`."""
    drawn = random_weights(SHAPES, 0, scale=0.02)
    base = {name: torch.from_numpy(value).to(DTYPES[dtype]).double().numpy() for name, value in drawn.items()}
    paths = {"base": write_checkpoint(folder / "base", base, dtype=dtype, config=SIZES)}
    for seed, name in enumerate("abc", start=1):
        weights = random_weights(SHAPES, seed, near=base, scale=scale)
        paths[name] = write_checkpoint(folder / name, weights, dtype=dtype, config=SIZES)
    return paths


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("sample", [1 << 20, 256])
def test_steps_are_counted_on_the_grid_of_the_dtype(dtype: str, sample: int, tmp_path: Path) -> None:
    values = torch.tensor([1.0, -1.0, 0.0, 0.5, 2.0, -0.25, 1e-3, 7.0] * 128).to(DTYPES[dtype])
    bits = values.view(torch.int16)
    away = torch.tensor([0, 0, 1, 1, 1, 2, 3, 300], dtype=torch.int16).repeat(128)  # nothing crosses zero
    shapes = {"model.layers.0.mlp.up_proj.weight": values}
    base = write_checkpoint(tmp_path / "base", shapes, config=SIZES)
    other = write_checkpoint(
        tmp_path / "other", {name: (bits + away).view(DTYPES[dtype]) for name in shapes}, config=SIZES
    )
    (found,) = moved(open_checkpoint(base), {"other": open_checkpoint(other)}, sample=sample).values()
    looked_at = min(1024, sample // 2)
    assert found == Moved(looked_at, looked_at * 6 // 8, looked_at * 3 // 8)


def test_a_step_across_zero_and_weights_of_more_bits_are_counted_as_they_will_be_rounded(tmp_path: Path) -> None:
    tiny = 2.0**-133  # bfloat16's least
    base = write_checkpoint(tmp_path / "base", {"x.weight": np.array([0.0, tiny, 1.0, 1.0])}, config=SIZES)
    other = write_checkpoint(tmp_path / "other", {"x.weight": np.array([-tiny, -tiny, 1.001, 1.01])}, config=SIZES)
    models = {"other": open_checkpoint(other)}
    assert moved(open_checkpoint(base), models) == {}
    assert moved(open_checkpoint(base), models, dtype="bfloat16") == {"other": Moved(4, 3, 2)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dtype", "scale", "least", "most"), [("BF16", STEP, 0.05, 0.5), ("BF16", 3e-3, 0, 0.005), ("F32", STEP, 0, 1e-5)]
)
def test_predictions_are_off_by_tenths_where_founders_are_a_step_from_the_base(
    dtype: str, scale: float, least: float, most: float, tmp_path: Path
) -> None:
    folders = stepped(tmp_path, dtype, scale)
    models = {name: open_checkpoint(folder) for name, folder in folders.items()}
    base = models.pop("base")
    found = moved(base, models)
    if dtype == "F32":
        assert found == {}
    else:
        shares = [one.one_step / one.changed for one in found.values()]
        assert all(share > 0.4 for share in shares) if least else all(share < 0.15 for share in shares)
    grams = measure(base, models)
    for name in ("linear", "slerp", "task_arithmetic", "nuslerp"):
        config = recipe(RECIPES[name])
        predicted = predicted_kinship(grams, config, "pcc")
        assert predicted is not None
        child = merged(config, folders, tmp_path / name)
        row = kinship_matrix(measure(base, {**models, "child": child}, known=grams), "pcc")[-1]
        off = max(abs(value - row[i]) for i, value in enumerate(predicted.values()))
        assert least <= off <= most, name


@pytest.mark.parametrize(
    ("dtype", "scale", "overrides", "words"),
    [
        ("BF16", STEP, (), r"by one step of their 16 bits: predicted .* may be off by tenths"),
        ("F16", STEP, (), r"by one step of their 16 bits: predicted .* may be off by hundredths"),
        ("BF16", 3e-3, (), r"by one step of their 16 bits: predicted .* may be off by thousandths"),
        ("F32", STEP, ("merge.dtype=bfloat16",), r"by one step of bfloat16: predicted .* may be off by tenths"),
    ],
)
def test_the_plan_says_what_rounding_will_do(
    dtype: str, scale: float, overrides: tuple[str, ...], words: str, tmp_path: Path, family: Path, evolve: Command
) -> None:
    at = stepped(tmp_path / "stepped", dtype, scale)["base"].parent
    outcome = evolve("dry_run=true", *overrides, f"evaluate.include={family / 'tasks'}", at=at, founders=tuple("abc"))
    assert outcome.status == 0, outcome.err
    differ = r"rounding: \d+%( to \d+%)? of the founders' weights differ from the base's, \d+%( to \d+%)? of these "
    assert re.search(differ + words, outcome.out), outcome.out


def test_the_plan_is_silent_where_nothing_is_rounded(tmp_path: Path, family: Path, evolve: Command) -> None:
    tasks = f"evaluate.include={family / 'tasks'}"
    for number, (dtype, *overrides) in enumerate((["F32"], ["BF16", "merge.dtype=float32"], ["BF16", "merge=ties"])):
        at = stepped(tmp_path / str(number), dtype, STEP)["base"].parent
        outcome = evolve("dry_run=true", *overrides, tasks, at=at, founders=tuple("abc"))
        assert outcome.status == 0, outcome.err
        assert "rounding:" not in outcome.out
