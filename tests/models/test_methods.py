"""Merge methods of our own: against plain numpy, at their limits, and through mergekit's own door."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.api import merge_state_dicts, merge_tensors
from mergekit.merge_methods.base import TensorGroup
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from src.models.methods import METHODS, calibration, matrices
from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint
from tests.conftest import Command
from tests.family import FOUNDERS

NAMES = [method.spec.name for method in METHODS if method.spec.name != "regmean"]  # which reads: test_inputs.py
LINEAR = "model.layers.0.mlp.up_proj.weight"
TABLE = "model.embed_tokens.weight"
SHAPES = [(6, 5), (4, 9), (7, 7), (1, 6), (6, 1)]
Arrays = Sequence[np.ndarray]


def tensors(shape: Sequence[int], founders: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Any]:
    """A base and founders near it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    near = [base + 0.3 * torch.randn(base.shape, generator=generator, dtype=torch.float64) for _ in range(founders)]
    return [tensor.to(dtype) for tensor in (base, *near)]


def merge(method: str, given: Sequence[torch.Tensor], *, name: str | None = LINEAR, **parameters: Any) -> torch.Tensor:
    """Merge the first tensor's founders, which are the others."""
    return merge_tensors(given, method, parameters=parameters, base_index=0, name=name)


def deltas_of(given: Sequence[torch.Tensor]) -> list[np.ndarray]:
    base, *founders = [tensor.double().numpy() for tensor in given]
    return [founder - base for founder in founders]


def close(found: torch.Tensor, base: torch.Tensor, delta: np.ndarray) -> bool:
    """Whether the merged delta is this one within 1e-5, and a rounding of the sum."""
    expected = base.double().numpy() + delta
    rounding = np.finfo(np.float32).eps if found.dtype == torch.float32 else 0
    distance = np.abs(found.double().numpy() - expected).max()
    return bool(distance <= 1e-5 * np.abs(delta).max() + rounding * np.abs(expected).max())


def numpy_regression(
    deltas: Arrays, weights: Sequence[float], *, normalised: bool, scale: float, rho: float, anchor: float
) -> np.ndarray:
    weights = np.array(weights) / np.mean(weights)
    covariances = [w * d.T @ d / ((d**2).sum() if normalised else 1) for w, d in zip(weights, deltas, strict=True)]
    ridge = rho * np.trace(sum(covariances)) / deltas[0].shape[1]
    answers = sum(d @ c for d, c in zip(deltas, covariances, strict=True))
    pull = anchor * sum(w * d for w, d in zip(weights, deltas, strict=True))
    return scale * (answers + ridge * pull) @ np.linalg.pinv(sum(covariances) + ridge * np.eye(deltas[0].shape[1]))


def numpy_apart(deltas: Arrays, weights: Sequence[float], *, scale: float) -> np.ndarray:
    most = max(1, min(deltas[0].shape) // len(deltas))
    factors = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u = np.concatenate([f[0][:, :most] for f in factors], axis=1)
    s = np.concatenate([w * f[1][:most] for w, f in zip(weights, factors, strict=True)])
    v = np.concatenate([f[2][:most].T for f in factors], axis=1)
    polar = []
    for stacked in (u, v):
        p, _, q = np.linalg.svd(stacked, full_matrices=False)
        polar.append(p @ q)
    return scale * polar[0] @ np.diag(s) @ polar[1].T


def numpy_level(deltas: Arrays, weights: Sequence[float], *, scale: float, beta: float) -> np.ndarray:
    u, s, vt = np.linalg.svd(sum(w * d for w, d in zip(weights, deltas, strict=True)), full_matrices=False)
    power = s ** (1 - beta)
    return scale * u @ np.diag(power * s.sum() / power.sum()) @ vt


def numpy_svc(merged: np.ndarray, deltas: Arrays, alpha: float) -> np.ndarray:
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    factors = []
    for r in range(len(s)):
        shares = []
        for delta in deltas:
            own, all_ = u[:, r] @ delta, u[:, r] @ merged
            shares.append(max(alpha, all_ @ own / (own @ own)))
        factors.append(len(deltas) / sum(shares))
    return u @ np.diag(s * factors) @ vt


EXPECTED: dict[str, Callable[[Arrays, Sequence[float]], np.ndarray]] = {
    "wudi": lambda d, w: numpy_regression(d, w, normalised=True, scale=1.5, rho=0.1, anchor=0.4),
    "actmat": lambda d, w: numpy_regression(d, w, normalised=False, scale=1.5, rho=0.1, anchor=0.4),
    "tsv_m": lambda d, w: numpy_apart(d, w, scale=1.0),
    "iso_c": lambda d, w: numpy_level(d, w, scale=1.0, beta=1.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", NAMES)
def test_as_numpy_has_it(method: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    given = tensors(shape, 3, dtype=dtype)
    if method == "tsv_m" and min(shape) == 1:
        pytest.skip("three directions in a space of one: what numpy fills in is arbitrary")
    weights = [1.0, 0.5, 2.0]
    found = merge(method, given, weight=weights)
    assert found.dtype == dtype
    assert close(found, given[0], EXPECTED[method](deltas_of(given), weights))


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_partly_level_as_numpy_has_it(beta: float) -> None:
    given = tensors((6, 5), 3)
    found = merge("iso_c", given, beta=beta, scale=0.7)
    assert close(found, given[0], numpy_level(deltas_of(given), [1, 1, 1], scale=0.7, beta=beta))


@pytest.mark.parametrize("shape", [(6, 5), (4, 9), (7, 7)])
@pytest.mark.parametrize("alpha", [1 / 3, 1.0])
@pytest.mark.parametrize("method", NAMES)
def test_calibrated_as_numpy_has_it(method: str, alpha: float, shape: tuple[int, int]) -> None:
    given = tensors(shape, 3)
    deltas, scale = deltas_of(given), 1.5 if method in {"wudi", "actmat"} else 1.0
    # Iso-C's singular values are all the same; a partial one has a decomposition that is its own.
    parameters = {"beta": 0.8} if method == "iso_c" else {}
    expected = EXPECTED[method] if method != "iso_c" else lambda d, w: numpy_level(d, w, scale=1.0, beta=0.8)
    merged = numpy_svc(expected(deltas, [1, 1, 1]) / scale, deltas, alpha)
    assert close(merge(method, given, svc=alpha, **parameters), given[0], scale * merged)


def test_what_is_level_is_calibrated_in_the_directions_of_the_sum() -> None:
    given = tensors((6, 5), 3)
    almost = merge("iso_c", given, beta=1 - 1e-9, svc=0.5)
    assert torch.allclose(merge("iso_c", given, beta=1.0, svc=0.5), almost, atol=1e-6)


def test_calibration_undoes_counting_the_same_delta_once_a_founder() -> None:
    base, founder = tensors((6, 5), 1)
    thrice = [base, founder, founder.clone(), founder.clone()]
    assert torch.allclose(merge("iso_c", thrice, beta=0.0), base + 3 * (founder - base), atol=1e-6)
    assert torch.allclose(merge("iso_c", thrice, beta=0.0, svc=1.0), founder, atol=1e-6)


def test_calibration_with_alpha_one_only_damps() -> None:
    deltas = [torch.randn(6, 5, dtype=torch.float64) for _ in range(4)]
    merged = torch.stack(deltas).sum(0)
    before, after = (
        torch.linalg.svdvals(m) for m in (merged, calibration.svc(calibration.decompose(merged), deltas, 1.0).matrix())
    )
    assert (after <= before * (1 + 1e-12)).all()


@pytest.mark.parametrize("method", ["wudi", "actmat"])
@pytest.mark.parametrize("rho", [1e9, float("inf")])
def test_the_anchor_alone_is_task_arithmetic(method: str, rho: float) -> None:
    given = tensors((6, 5), 3)
    sum_ = merge("task_arithmetic", given, weight=1.5 * 0.4)
    assert torch.allclose(merge(method, given, rho=rho), sum_, atol=1e-6)
    weighted = merge("task_arithmetic", given, weight=[1.5 * 0.4 * w for w in (0.5, 1.0, 1.5)])
    assert torch.allclose(merge(method, given, rho=rho, weight=[1.0, 2.0, 3.0]), weighted, atol=1e-6)


@pytest.mark.parametrize("method", ["wudi", "actmat"])
def test_without_an_anchor_what_no_founder_speaks_of_stays_as_it_was(method: str) -> None:
    """Two founders that changed different inputs are both kept whole; the input neither changed stays the base's."""
    base = torch.zeros(4, 5)
    left, right = torch.zeros(4, 5), torch.zeros(4, 5)
    left[:, :2], right[:, 2:4] = torch.randn(4, 2), torch.randn(4, 2)
    found = merge(method, [base, left, right], rho=0.0, scale=1.0)
    assert torch.allclose(found, left + right, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [LINEAR, TABLE])
@pytest.mark.parametrize("method", NAMES)
def test_one_founder_gives_itself(method: str, name: str, dtype: torch.dtype) -> None:
    given = tensors((6, 5), 1, dtype=dtype)
    parameters = {"scale": 1.0, "rest": 1.0}
    assert torch.equal(merge(method, given, name=name, **parameters), given[1])
    assert torch.equal(merge(method, [*given, given[0].clone()], name=name, **parameters), given[1])
    assert torch.equal(merge(method, [*given, given[1] * 2], name=name, weight=[1.0, 0.0], **parameters), given[1])


@pytest.mark.parametrize("svc", [0.25, 1.0])
@pytest.mark.parametrize("method", NAMES)
def test_calibrating_one_founder_changes_nothing(method: str, svc: float) -> None:
    given = tensors((6, 5), 1)
    assert torch.allclose(merge(method, given, scale=1.0, svc=svc), given[1], atol=1e-6)


@pytest.mark.parametrize("name", [LINEAR, TABLE])
@pytest.mark.parametrize("method", NAMES)
def test_founders_that_are_the_base_leave_the_base(method: str, name: str) -> None:
    base = tensors((6, 5), 0)[0]
    assert torch.equal(merge(method, [base, base.clone(), base.clone()], name=name, svc=1.0), base)


@pytest.mark.parametrize("method", NAMES)
def test_founders_that_cancel_out_or_repeat_each_other_are_finite(method: str) -> None:
    base, founder = tensors((6, 5), 1)
    assert torch.isfinite(merge(method, [base, founder, 2 * base - founder], svc=1.0)).all()
    assert torch.isfinite(merge(method, [base, founder, founder.clone()], svc=1.0)).all()


def test_the_same_founder_twice_pulls_no_new_directions_in() -> None:
    base, founder = tensors((6, 5), 1)
    merged = merge("tsv_m", [base, founder, founder.clone()]) - base
    u, s, vt = torch.linalg.svd(founder - base, full_matrices=False)
    assert torch.allclose(merged, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)


@pytest.mark.parametrize("method", NAMES)
def test_more_founders_than_rank(method: str) -> None:
    given = tensors((2, 3), 7)
    found = merge(method, given)
    assert torch.isfinite(found).all()
    if method != "tsv_m":
        assert close(found, given[0], EXPECTED[method](deltas_of(given), [1.0] * 7))


@pytest.mark.parametrize("method", NAMES)
def test_deltas_of_rank_one(method: str) -> None:
    """As an adapter's: the merged delta stays in the span of the founders' directions."""
    base = tensors((8, 6), 0, dtype=torch.float64)[0]
    columns, rows = torch.randn(8, 3, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    founders = [base + columns[:, i : i + 1] @ rows[i : i + 1] for i in range(3)]
    delta = merge(method, [base, *founders]) - base
    projected = columns @ torch.linalg.lstsq(columns, delta).solution
    assert torch.allclose(delta, projected, atol=1e-9)
    assert torch.linalg.matrix_rank(delta, rtol=1e-9) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", NAMES)
def test_what_is_not_finite_spoils_its_tensor_and_no_more(method: str, bad: float) -> None:
    given = tensors((6, 5), 2)
    given[1][2, 3] = bad
    assert torch.isnan(merge(method, given)).all()
    table = merge(method, given, name=TABLE)
    assert not torch.isfinite(table[2, 3])
    assert torch.isfinite(table).sum() == table.numel() - 1


@pytest.mark.parametrize("method", NAMES)
@settings(max_examples=30)
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    founders=st.integers(1, 5),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    name=st.sampled_from([LINEAR, TABLE, None]),
    kind=st.sampled_from(["auto", "linear", "transposed", "rest"]),
    svc=st.sampled_from([0.0, 0.3]),
)
def test_any_shape(method: str, shape: list[int], founders: int, seed: int, dtype: Any, **given_: Any) -> None:
    """Shape and dtype are the inputs'; parents in any order, and under any name, give the same bytes."""
    name, parameters = given_.pop("name"), given_
    base, *rest = tensors(shape, founders, seed=seed, dtype=dtype)
    weights = [1.0, 0.5, 2.0, 1.5, 0.25][:founders]
    found = merge(method, [base, *rest], name=name, weight=weights, **parameters)
    assert (found.shape, found.dtype) == (base.shape, dtype)
    assert torch.isfinite(found).all()
    order = np.random.default_rng(seed).permutation(founders)
    again = merge_tensors(
        [*(rest[i] for i in order), base],
        method,
        ids=[f"renamed {i}" for i in range(founders + 1)],
        parameters={**parameters, "weight": [weights[i] for i in order]},
        base_index=founders,
        name=name,
    )
    assert torch.equal(found, again)


@pytest.mark.parametrize("method", NAMES)
def test_rounded_once(method: str) -> None:
    given = tensors((16, 12), 3, dtype=torch.bfloat16)
    wide = merge(method, [tensor.double() for tensor in given])
    assert torch.equal(merge(method, given), wide.bfloat16())


@pytest.mark.parametrize(
    ("name", "shape", "vocabulary", "kind"),
    [
        ("model.layers.3.self_attn.q_proj.weight", (4, 4), None, "linear"),
        ("model.layers.3.block_sparse_moe.experts.2.w1.weight", (4, 4), None, "linear"),
        ("model.layers.3.mlp.gate.weight", (8, 4), None, "linear"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", (12, 4), None, "linear"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", (4, 4), None, "linear"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (8, 2), None, "rest"),
        ("model.layers.0.self_attn.q_norm.weight", (2, 4), None, "rest"),
        ("backbone.layers.0.mixer.A_log", (8, 4), None, "rest"),
        ("model.layers.0.mlp.experts.down_proj_bias", (8, 4), None, "rest"),
        ("model.layers.0.input_layernorm.weight", (4,), None, "rest"),
        ("model.layers.0.self_attn.q_proj.bias", (4,), None, "rest"),
        ("backbone.layers.0.mixer.conv1d.weight", (8, 1, 4), None, "rest"),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 4, 4), None, "rest"),
        ("layers.0.wte.weight", (11, 4), 0, "rest"),
        ("layers.25.linear.weight", (11, 4), 0, "rest"),
        ("transformer.wpe.weight", (16, 4), None, "rest"),
        ("model.embed_tokens.weight", (11, 4), 0, "rest"),
        ("lm_head.weight", (11, 4), 0, "rest"),
        ("score.weight", (2, 4), None, "rest"),
        ("transformer.h.0.attn.c_attn.weight", (4, 12), None, "linear"),
        (None, (4, 4), None, "linear"),
        (None, (4,), None, "rest"),
    ],
)
def test_kinds(name: str | None, shape: tuple[int, ...], vocabulary: int | None, kind: str) -> None:
    group = TensorGroup.from_tensors([torch.zeros(shape)], base_index=0, name=name, vocabulary_axis=vocabulary)
    assert matrices.kind_of(group) == kind


@pytest.mark.parametrize(("model_type", "kind"), [("gpt2", "transposed"), ("gpt_bigcode", "linear")])
def test_the_same_names_are_transposed_in_one_architecture_and_not_in_another(
    tmp_path: Path, model_type: str, kind: str
) -> None:
    write_checkpoint(tmp_path, {}, config={"model_type": model_type})
    group = TensorGroup.from_tensors(
        [torch.zeros(4, 4)],
        ids=[ModelReference.model_validate(str(tmp_path))],
        base_index=0,
        name="transformer.h.0.attn.c_proj.weight",
    )
    assert matrices.kind_of(group) == kind


@pytest.mark.parametrize("method", NAMES)
def test_kind_overrules(method: str) -> None:
    given = tensors((6, 5), 2)
    flipped = merge(method, [tensor.mT for tensor in given], kind="transposed")
    assert torch.allclose(flipped.mT, merge(method, given), atol=1e-6)
    assert torch.equal(merge(method, given, kind="rest"), merge(method, given, name=TABLE))
    stacks = [torch.stack([tensor, tensor.flip(0)]) for tensor in given]
    assert torch.equal(merge(method, stacks, kind="linear")[0], merge(method, given))


@pytest.mark.parametrize("method", NAMES)
def test_what_is_no_linear_weight_gets_a_share_of_the_sum(method: str) -> None:
    given = tensors((6, 5), 2)
    deltas = deltas_of(given)
    assert close(merge(method, given, name=TABLE, rest=0.3), given[0], 0.3 * sum(deltas))
    weighted = merge(method, given, name=TABLE, rest="mean", weight=[1.0, 3.0])
    assert close(weighted, given[0], (deltas[0] + 3 * deltas[1]) / 4)


def test_a_founder_that_counts_more_is_answered_more_like() -> None:
    given = tensors((6, 5), 2)
    first = given[1]
    distances = [float((merge("wudi", given, scale=1.0, weight=[w, 1.0]) - first).norm()) for w in (0.1, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("name", [LINEAR, TABLE])
def test_counting_everybody_twice_changes_nothing(name: str) -> None:
    given = tensors((6, 5), 2)
    once, twice = (merge("wudi", given, name=name, weight=weights) for weights in ([1.0, 3.0], [2.0, 6.0]))
    assert torch.allclose(once, twice, atol=1e-6)


# Through mergekit's own door: a configuration, checkpoints on disk, run_merge.


def merge_on_disk(out: Path, method: str, base: Path, founders: Sequence[Path], parameters: dict[str, Any]) -> Any:
    config = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(founder)} for founder in founders],
        "parameters": parameters,
    }
    options = MergeOptions(device="cpu", copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(out), options)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("method", NAMES)
def test_gradients_and_filters(method: str, family: Path, tmp_path: Path) -> None:
    """A gradient over the layers is LiNeS: α + β l / (L − 1) at layer l of L; a filter picks tensors by name."""
    founders = [family / name for name in FOUNDERS[:3]]
    alpha, beta = 0.4, 0.8
    parameters = {
        "scale": [alpha, alpha + beta],
        "rest": [{"filter": "embed_tokens", "value": 0.1}, {"value": 0.7}],
        "kind": [{"filter": "down_proj", "value": "rest"}, {"value": "auto"}],
        "weight": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}],
    }
    found = merge_on_disk(tmp_path / "out", method, family / "base", founders, parameters)
    loaded = [load_file(path / "model.safetensors") for path in (family / "base", *founders)]
    assert found.keys() == loaded[0].keys()
    for name in found:
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        expected = merge_tensors(
            [weights[name] for weights in loaded],
            method,
            base_index=0,
            name=name,
            parameters={
                "scale": alpha + beta * layer,
                "rest": 0.1 if "embed" in name else 0.7,
                "kind": "rest" if "down_proj" in name or "lm_head" in name else "auto",
                "weight": 0.5 if "mlp" in name else 1.0,
            },
        )
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("method", NAMES)
def test_parents_in_any_order_on_disk(method: str, family: Path, tmp_path: Path) -> None:
    paths = [family / name for name in FOUNDERS[:3]]
    merged = []
    for i, order in enumerate(itertools.permutations(paths)):
        merge_on_disk(tmp_path / str(i), method, family / "base", order, {"svc": 0.5})
        merged.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert len(set(merged)) == 1


def test_tied_weights_are_merged_once(tmp_path: Path) -> None:
    config, shapes = {**CONFIG, "tie_word_embeddings": True}, llama_shapes(tied=True)
    base = random_weights(shapes, 0)
    paths = [write_checkpoint(tmp_path / "base", base, config=config)]
    paths += [
        write_checkpoint(tmp_path / f"{i}", random_weights(shapes, i, near=base, scale=0.3), config=config)
        for i in (1, 2)
    ]
    found = merge_on_disk(tmp_path / "out", "wudi", paths[0], paths[1:], {"rest": 0.25})
    loaded = [load_file(path / "model.safetensors")[TABLE] for path in paths]
    assert "lm_head.weight" not in found
    assert close(found[TABLE], loaded[0], 0.25 * sum(deltas_of(loaded)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_gpt2(tmp_path_factory.mktemp("gpt2"))


def write_gpt2(folder: Path) -> list[Path]:
    """A base and two founders of GPT-2's architecture, whose linear weights are [d_in, d_out]."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=12))
    paths = []
    for name in ("base", "one", "two"):
        paths.append(folder / name)
        model.save_pretrained(paths[-1])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return paths


@pytest.mark.parametrize("method", NAMES)
def test_gpt2_is_merged_in_the_order_of_its_weights(method: str, gpt2: list[Path], tmp_path: Path) -> None:
    found = merge_on_disk(tmp_path / "out", method, gpt2[0], gpt2[1:], {})
    loaded = [load_file(path / "model.safetensors") for path in gpt2]
    for leaf in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        name = f"transformer.h.1.{leaf}.weight"
        given = [weights[name] for weights in loaded]
        transposed = merge(method, [tensor.mT.contiguous() for tensor in given])
        assert torch.allclose(found[name], transposed.mT, atol=1e-6), leaf
        if method in {"wudi", "actmat"}:  # the other two are the same either way round
            assert not torch.allclose(found[name], merge(method, given), atol=1e-4), leaf
    positions = [weights["transformer.wpe.weight"] for weights in loaded]
    assert torch.equal(found["transformer.wpe.weight"], merge(method, positions, kind="rest"))


@pytest.mark.parametrize("method", NAMES)
def test_one_shot(method: str, evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("strategy=one_shot", f"merge={method}")
    assert outcome.status == 0, outcome.err
    weights = load_file(tmp_path / "outputs" / "run" / "best" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("merge_", "wrong"),
    [
        ("wudi", "parameters.rho=-1"),
        ("wudi", "parameters.svc=2"),
        ("wudi", "parameters.rest=median"),
        ("wudi", "each.weight=-0.5"),
        ("iso_c", "parameters.beta=1.5"),
        ("tsv_m", "parameters.scale=nan"),
        ("tsv_m", "parameters.rho=0.1"),
    ],
)
def test_a_wrong_parameter_ends_before_any_work(merge_: str, wrong: str, evolve: Command, tmp_path: Path) -> None:
    override = wrong if "rho=0.1" not in wrong else f"+merge.{wrong}"
    outcome = evolve("strategy=one_shot", f"merge={merge_}", override if override[0] == "+" else f"merge.{override}")
    assert outcome.status == 2
    assert f"merge.{wrong.split('=')[0]}" in outcome.err
    assert not (tmp_path / "outputs" / "run" / "journal.jsonl").exists()


def test_state_dicts_in_memory() -> None:
    """mergekit's other door: models in RAM, by any name."""
    shapes = llama_shapes()
    base = random_weights(shapes, 0)
    models = {"base": base, **{name: random_weights(shapes, i, near=base) for i, name in enumerate("ab", 1)}}
    states = {name: {k: torch.from_numpy(v) for k, v in weights.items()} for name, weights in models.items()}
    found = merge_state_dicts(states, "wudi", base="base")
    given = [states[name][LINEAR] for name in ("base", "a", "b")]
    assert torch.equal(found[LINEAR], merge("wudi", given))
