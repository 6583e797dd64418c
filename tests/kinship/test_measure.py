"""The pass over the weights, against plain numpy in float64; by both kernels."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from src.kinship import METRICS, Grams, kinship_matrix, measure, native
from src.kinship.kinds import kind_of, layer_of
from src.models.checkpoint import open_checkpoint
from src.runtime.errors import UserError
from tests.checkpoints import CONFIG, DTYPES, llama_shapes, random_weights, write_checkpoint, write_family

KERNELS = ["compiled", "torch"]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "build", lambda: None)
    elif native.build() is None:
        pytest.skip("no C compiler here")
    return request.param


def opened(paths):
    models = {name: open_checkpoint(path) for name, path in paths.items()}
    return models.pop("base"), models


def reference(paths):
    """Deltas [n, N] and base [N], as float64, by another library."""
    flat = {
        name: np.concatenate(
            [t.double().numpy().ravel() for _, t in sorted(load_file(p / "model.safetensors").items())]
        )
        for name, p in paths.items()
    }
    base = flat.pop("base")
    return base, np.array([weights - base for weights in flat.values()])


def expected(deltas, metric):
    pairs = {
        "pcc": lambda a, b: np.corrcoef(a, b)[0, 1],
        "cosine": lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        "euclidean": lambda a, b: np.linalg.norm(a - b),
    }
    return np.array([[pairs[metric](a, b) for b in deltas] for a in deltas])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "dtypes",
    [*[(d,) for d in DTYPES], *itertools.permutations(["BF16", "F16", "F32", "F64"], 3)],
    ids="-".join,
)
def test_every_mix_of_dtypes(dtypes, metric, kernel, tmp_path):
    paths = write_family(tmp_path, ["a", "b", "c", "d"], dtypes=dtypes)
    grams = measure(*opened(paths))
    _, deltas = reference(paths)
    np.testing.assert_allclose(kinship_matrix(grams, metric), expected(deltas, metric), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17])
def test_any_number_of_models(n, kernel, tmp_path):
    paths = write_family(tmp_path, [f"m{i}" for i in range(n)], dtypes=["BF16", "F32"])
    grams = measure(*opened(paths))
    base, deltas = reference(paths)
    everyone = np.vstack([base, deltas])
    np.testing.assert_allclose(grams.total().gram, everyone @ everyone.T, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(grams.total().sums, everyone.sum(axis=1), rtol=1e-9, atol=1e-10)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 40), max_size=3).map(tuple),
    dtypes=st.lists(st.sampled_from(sorted(DTYPES)), min_size=3, max_size=4),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 2**20),
)
def test_any_shape(shape, dtypes, scale, seed, tmp_path_factory):
    shapes = {"model.layers.0.mlp.up_proj.weight": shape, "model.norm.weight": (3,)}
    names = [f"m{i}" for i in range(len(dtypes) - 1)]
    paths = write_family(
        tmp_path_factory.mktemp("shape"), names, shapes=shapes, dtypes=dtypes, scale=scale, seed=100 * seed
    )
    base, deltas = reference(paths)
    if not all(delta.any() for delta in deltas):  # a small change can be lost in a coarse dtype
        with pytest.raises(UserError, match="unchanged"):
            measure(*opened(paths))
        return
    grams = measure(*opened(paths))
    everyone = np.vstack([base, deltas])
    lengths = np.linalg.norm(everyone, axis=1)
    assert np.abs(grams.total().gram - everyone @ everyone.T).max() <= 1e-12 * lengths.max() ** 2
    for metric in METRICS:
        wanted = expected(deltas, metric)
        np.testing.assert_allclose(kinship_matrix(grams, metric), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_long_tensors(dtype, metric, kernel, tmp_path):
    """Longer than a buffer, and than what is summed in double."""
    shapes = {"model.layers.0.mlp.up_proj.weight": (1_200_007,), "model.norm.weight": (65_537,)}
    paths = write_family(tmp_path, ["a", "b"], shapes=shapes, dtypes=[dtype], scale=0.3)
    weights = load_file(paths["a"] / "model.safetensors")  # a relative of a, so that kinship is not near zero
    near = {name: t.double().numpy() + random_weights(shapes, 9, scale=0.3)[name] for name, t in weights.items()}
    paths["c"] = write_checkpoint(tmp_path / "c", near, dtype=dtype)
    grams = measure(*opened(paths))
    _, deltas = reference(paths)
    wanted, found = expected(deltas, metric), kinship_matrix(grams, metric)
    assert found[2, 0] == pytest.approx(wanted[2, 0], rel=1e-7)
    # Deltas at right angles: what is left of a million products that cancel. Its error is small, not its relative one.
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-9)


@pytest.mark.parametrize("r", [0.1, 0.02, 0.005])
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_long_tensors_of_near_copies(dtype, r, tmp_path):
    """Sums in float, of weights on a grid, in two stretches, then subtracted: rounding must not lean to one side."""
    shapes = {"model.layers.0.mlp.up_proj.weight": (2_200_000,)}
    base = random_weights(shapes, 0)
    a = random_weights(shapes, 1, near=base, scale=0.3)
    b = random_weights(shapes, 2, near=a, scale=0.3 * r)
    paths = {n: write_checkpoint(tmp_path / n, w, dtype=dtype) for n, w in (("base", base), ("a", a), ("b", b))}
    _, deltas = reference(paths)
    parent, models = opened(paths)
    later = measure(parent, models, known=measure(parent, {"a": models["a"]}))
    for metric in METRICS:
        wanted = expected(deltas, metric)[0, 1]
        assert kinship_matrix(measure(parent, models), metric)[0, 1] == pytest.approx(wanted, rel=1e-6)
        assert kinship_matrix(later, metric)[0, 1] == pytest.approx(wanted, rel=1e-6)


def test_special_numbers_of_fp16(kernel, tmp_path):
    """Every finite fp16 there is, subnormals and both zeros included."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = torch.from_numpy(bits[np.isfinite(bits.view(np.float16))].view(np.float16).copy())
    zero = torch.zeros_like(values)
    for name, tensor in (("base", zero), ("a", values), ("b", values.flip(0))):
        write_checkpoint(tmp_path / name, {"w": tensor})
    paths = {name: tmp_path / name for name in ("base", "a", "b")}
    _, deltas = reference(paths)
    totals = measure(*opened(paths)).total()
    np.testing.assert_allclose(totals.gram[1:, 1:], deltas @ deltas.T, rtol=1e-12)


@pytest.mark.parametrize("r", [1e-1, 1e-2, 1e-3, 1e-4])
def test_distance_of_near_copies(r, kernel, tmp_path):
    """It is a difference of large numbers; float64 leaves room for copies that differ by a ten-thousandth."""
    shapes = llama_shapes(hidden=32, mlp=48)
    base = random_weights(shapes, 0)
    a = random_weights(shapes, 1, near=base)
    b = random_weights(shapes, 2, near=a, scale=r)
    paths = {n: write_checkpoint(tmp_path / n, w, dtype="F32") for n, w in (("base", base), ("a", a), ("b", b))}
    _, deltas = reference(paths)
    grams = measure(*opened(paths))
    for metric in METRICS:
        np.testing.assert_allclose(kinship_matrix(grams, metric), expected(deltas, metric), rtol=1e-6)


def test_opposed_deltas_are_minus_one(kernel, tmp_path):
    base = {name: np.round(w * 64) / 64 for name, w in random_weights(llama_shapes(), 0).items()}
    delta = {name: np.round(w * 64) / 64 for name, w in random_weights(llama_shapes(), 1).items()}
    paths = {}
    for name, sign in (("base", 0), ("a", 1), ("b", -1)):
        paths[name] = write_checkpoint(tmp_path / name, {key: base[key] + sign * delta[key] for key in base})
    grams = measure(*opened(paths))
    for metric in ("pcc", "cosine"):
        assert kinship_matrix(grams, metric) == pytest.approx(np.array([[1, -1], [-1, 1]]), abs=1e-12)


def test_sharding_does_not_matter(kernel, tmp_path):
    paths = write_family(tmp_path, ["a", "b"])
    weights = load_file(paths["a"] / "model.safetensors")
    sharded = write_checkpoint(tmp_path / "sharded", weights, shards=3)
    once, again = measure(*opened(paths)), measure(*opened(paths | {"a": sharded}))
    assert np.array_equal(once.gram, again.gram)


def test_the_same_bits_every_time(tmp_path):
    shapes = {"w": (3_000_000,), "model.norm.weight": (70_000,)}
    base, models = opened(write_family(tmp_path, ["a", "b", "c"], shapes=shapes, dtypes=["BF16"]))
    runs = [measure(base, models) for _ in range(4)]
    assert all(np.array_equal(run.gram, runs[0].gram) and np.array_equal(run.sums, runs[0].sums) for run in runs)


def test_one_pass_for_new_models(kernel, tmp_path):
    base, models = opened(write_family(tmp_path, list("abcdefg")))
    whole = measure(base, models)
    grams = measure(base, {name: models[name] for name in "abc"})
    for more in ("abcd", "abcdefg"):
        grams = measure(base, {name: models[name] for name in more}, known=grams)
    assert grams.names == whole.names
    np.testing.assert_allclose(grams.gram, whole.gram, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grams.sums, whole.sums, rtol=1e-12, atol=1e-12)
    assert measure(base, models, known=grams) is grams


def test_known_models_that_are_gone_stay_as_far_as_they_are_known(tmp_path):
    base, models = opened(write_family(tmp_path, list("abcd")))
    whole = measure(base, models)
    known = measure(base, {name: models[name] for name in "abc"})
    grams = measure(base, {name: models[name] for name in "bd"}, known=known)
    assert grams.names == ("a", "b", "c", "d")
    matrix = kinship_matrix(grams, "pcc")
    unknown = np.zeros((4, 4), dtype=bool)
    unknown[3, [0, 2]] = unknown[[0, 2], 3] = True
    assert np.array_equal(np.isnan(matrix), unknown)
    np.testing.assert_allclose(matrix[~unknown], kinship_matrix(whole, "pcc")[~unknown], rtol=1e-12)


def test_a_smaller_vocabulary_has_everything_measured_again(tmp_path):
    base, models = opened(write_family(tmp_path, ["a", "b"]))
    known = measure(base, models)
    shapes = llama_shapes(vocab=9)
    small = open_checkpoint(write_checkpoint(tmp_path / "small", random_weights(shapes, 7)))
    grams = measure(base, {"b": models["b"], "small": small}, known=known)
    assert grams.names == ("a", "b", "small")
    assert np.array_equal(np.isnan(kinship_matrix(grams, "pcc")[0]), [True] * 3)
    fresh = measure(base, {"b": models["b"], "small": small})
    np.testing.assert_allclose(grams.of(["b", "small"]).gram, fresh.gram, rtol=1e-12)


def test_models_that_changed_since_they_were_measured(tmp_path):
    paths = write_family(tmp_path, ["a", "b"])
    base, models = opened(paths)
    known = measure(base, {"a": models["a"]})
    write_checkpoint(paths["a"], random_weights(llama_shapes(), 77))
    with pytest.raises(
        UserError, match=r"a is not what was measured before \(its \S+ has changed\); forget the stored"
    ):
        measure(base, {"a": open_checkpoint(paths["a"]), "b": models["b"]}, known=known)


def test_common_rows_of_vocabularies(kernel, tmp_path):
    base, a = random_weights(llama_shapes(vocab=11), 0), random_weights(llama_shapes(vocab=13), 1)
    b = random_weights(llama_shapes(vocab=10), 2)
    paths = {n: write_checkpoint(tmp_path / n, w, dtype="F64") for n, w in (("base", base), ("a", a), ("b", b))}
    grams = measure(*opened(paths))
    rows = [
        np.concatenate(
            [w[name][:10].ravel() if w[name].shape[0] in (10, 11, 13) else w[name].ravel() for name in sorted(base)]
        )
        for w in (base, a, b)
    ]
    wanted = np.corrcoef(rows[1] - rows[0], rows[2] - rows[0])[0, 1]
    assert kinship_matrix(grams, "pcc")[0, 1] == pytest.approx(wanted, rel=1e-9)


def test_tied_heads_count_once(tmp_path):
    tied = CONFIG | {"tie_word_embeddings": True}
    paths = write_family(tmp_path / "stored", ["a", "b"], config=tied)
    grams = measure(*opened(paths))
    assert "lm_head.weight" not in [tensor.name for tensor in grams.tensors]
    assert grams.count.sum() == sum(np.prod(shape) for shape in llama_shapes(tied=True).values())


def test_integer_tensors_are_ignored(tmp_path):
    paths = write_family(tmp_path, ["a", "b"])
    without = measure(*opened(paths))
    for seed, path in enumerate(paths.values()):
        weights = load_file(path / "model.safetensors")
        write_checkpoint(path, weights | {"position_ids": torch.full((5,), seed), "mask": torch.ones(3) > seed})
    assert np.array_equal(measure(*opened(paths)).gram, without.gram)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["base", "b"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite(dtype, where, value, kernel, tmp_path):
    paths = write_family(tmp_path, ["a", "b"], dtypes=[dtype])
    weights = load_file(paths[where] / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    write_checkpoint(paths[where], weights)
    label = "the base" if where == "base" else "b"
    with pytest.raises(UserError, match=f"{label} has NaN or infinite weights, first in model.layers.1.mlp.up_proj"):
        measure(*opened(paths))


def test_a_model_without_a_change_is_named(kernel, tmp_path):
    paths = write_family(tmp_path, ["a", "b"])
    write_checkpoint(tmp_path / "copy", load_file(paths["base"] / "model.safetensors"))
    with pytest.raises(UserError, match="copy is unchanged: its delta against the base is zero in every tensor"):
        measure(*opened(paths | {"copy": tmp_path / "copy"}))


def test_a_file_that_shrinks_while_it_is_read(kernel, tmp_path):
    paths = write_family(tmp_path, ["a", "b"])
    base, models = opened(paths)
    with (paths["a"] / "model.safetensors").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(UserError, match=r"model.safetensors: cannot be read to its end, in tensor \S+; copy it again"):
        measure(base, models)


def test_no_model_and_no_device(tmp_path):
    base, models = opened(write_family(tmp_path, ["a"]))
    with pytest.raises(UserError, match="no model to measure"):
        measure(base, {})
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"device 'cuda' cannot be used .* expected cpu"):
            measure(base, models, device="cuda")


def test_progress_comes_to_its_end(tmp_path):
    base, models = opened(write_family(tmp_path, ["a", "b"]))
    seen = []
    measure(base, models, progress=lambda done, whole: seen.append((done, whole)))
    assert seen[-1] == (base.nbytes + sum(m.nbytes for m in models.values()),) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same(tmp_path):
    base, models = opened(write_family(tmp_path, ["a", "b", "c"], dtypes=["BF16", "F32", "F16"]))
    np.testing.assert_allclose(measure(base, models, device="cuda").gram, measure(base, models).gram, rtol=1e-12)


def test_a_broken_compiler_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "false")
    native.build.cache_clear()
    try:
        assert native.build() is None
        grams = measure(*opened(write_family(tmp_path, ["a", "b"])))
    finally:
        native.build.cache_clear()
    assert np.isfinite(grams.gram).all()


class TestGrams:
    @pytest.fixture
    def grams(self, tmp_path):
        return measure(*opened(write_family(tmp_path, ["a", "b", "c"])))

    def test_saved_and_loaded(self, grams, tmp_path):
        grams.save(tmp_path / "new" / "kinship.npz")
        loaded = Grams.load(tmp_path / "new" / "kinship.npz")
        assert (loaded.names, loaded.tensors) == (grams.names, grams.tensors)
        assert np.array_equal(loaded.gram, grams.gram)
        assert np.array_equal(loaded.sums, grams.sums)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["kinship.npz"]

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
    def test_a_damaged_file(self, content, tmp_path):
        (tmp_path / "kinship.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"kinship.npz: no stored kinship .* remove it"):
            Grams.load(tmp_path / "kinship.npz")

    def test_parts_add_up(self, grams):
        whole = grams.total().gram
        np.testing.assert_allclose(sum(grams.select(kind=kind).total().gram for kind in grams.kinds()), whole)
        outside = sum(t.gram for t in [grams.select(kind="embeddings").total()])
        layers = sum(grams.select(layer=layer).total().gram for layer in grams.layers())
        norm = grams.gram[[tensor.name for tensor in grams.tensors].index("model.norm.weight")]
        np.testing.assert_allclose(outside + layers + norm, whole)

    def test_some_of_the_models(self, grams):
        swapped = grams.of(["c", "a"])
        assert np.array_equal(kinship_matrix(swapped, "pcc"), kinship_matrix(grams, "pcc")[np.ix_([2, 0], [2, 0])])

    def test_unknown_parts_and_models(self, grams):
        with pytest.raises(UserError, match=r"no tensor of layer 7; there are the layers \[0, 1\]"):
            grams.select(layer=7)
        with pytest.raises(UserError, match="no model 'zoe' was measured; there are a, b, c"):
            grams.of(["zoe"])


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.embed_tokens.weight", None, "embeddings"),
        ("lm_head.weight", None, "embeddings"),
        ("model.norm.weight", None, "norms"),
        ("model.layers.12.self_attn.q_proj.weight", 12, "attention"),
        ("model.layers.3.self_attn.q_norm.weight", 3, "norms"),
        ("model.layers.0.mlp.gate_proj.weight", 0, "mlp"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", 0, "mlp"),
        ("model.layers.0.post_attention_layernorm.weight", 0, "norms"),
        ("transformer.h.5.attn.c_attn.weight", 5, "attention"),
        ("transformer.h.5.mlp.c_fc.weight", 5, "mlp"),
        ("transformer.h.5.ln_1.weight", 5, "norms"),
        ("transformer.ln_f.bias", None, "norms"),
        ("transformer.wpe.weight", None, "embeddings"),
        ("gpt_neox.layers.4.attention.query_key_value.weight", 4, "attention"),
        ("gpt_neox.layers.4.mlp.dense_h_to_4h.bias", 4, "mlp"),
        ("something.else", None, "other"),
    ],
)
def test_layer_and_kind_from_the_name(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)
