"""What is predicted from Gram matrices, against what mergekit makes and the engine then measures."""

import json

import numpy as np
import pytest
import torch

from src.kinship import METRICS, NotPredictable, kinship_matrix, measure, predict
from src.kinship.recipe import evaluate
from src.models import methods  # noqa: F401 (mergekit comes to know treated methods)
from src.models.checkpoint import open_checkpoint
from src.runtime.errors import UserError
from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint

LAYERS = 3
SHAPES = llama_shapes(layers=LAYERS, hidden=16, mlp=24, vocab=40)
FAMILY_CONFIG = CONFIG | {"num_hidden_layers": LAYERS, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 40}
GRADIENT = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0]},
    {"value": 0.5},
]

RECIPES = {
    "linear": {"merge_method": "linear", "models": [("a", 0.7), ("b", 0.5)]},
    "linear, three, with the base": {"merge_method": "linear", "models": [("a", 1), ("b", 2), ("c", 3), ("base", 1)]},
    "linear, not normalized": {
        "merge_method": "linear",
        "models": [("a", 0.7), ("b", 0.5)],
        "parameters": {"normalize": False},
    },
    "linear, gradient of weights": {"merge_method": "linear", "models": [("a", [0.1, 0.9]), ("b", GRADIENT), ("c", 1)]},
    "task_arithmetic": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [("a", 0.7), ("b", 0.8), ("c", -0.2)],
        "parameters": {"lambda": 1.3},
    },
    "task_arithmetic, normalized, on a parent": {
        "merge_method": "task_arithmetic",
        "base_model": "a",
        "models": [("a", 1), ("b", 0.8), ("c", 0.9)],
        "parameters": {"normalize": True},
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": ["a", "b"],
        "parameters": {"t": 0.3},
    },
    "slerp, the paper's gradient": {
        "merge_method": "slerp",
        "base_model": "b",
        "models": ["a", "b"],
        "parameters": {"t": GRADIENT},
    },
    "slerp, with the base": {
        "merge_method": "slerp",
        "base_model": "base",
        "models": ["base", "far"],
        "parameters": {"t": 0.6},
    },
    "slerp, collinear": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": ["a", "near"],
        "parameters": {"t": [0.2, 0.8]},
    },
    "slerp, beyond the other": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": ["a", "far"],
        "parameters": {"t": 1.7},
    },
    "nuslerp": {"merge_method": "nuslerp", "models": [("a", 0.7), ("b", 0.5)]},
    "nuslerp of deltas": {"merge_method": "nuslerp", "base_model": "base", "models": [("a", 0.7), ("b", [0.1, 2])]},
    "nuslerp of differences from a parent": {
        "merge_method": "nuslerp",
        "base_model": "c",
        "models": [("a", 0.7), ("far", 0.5)],
    },
    "treated slerp": {
        "merge_method": "treated_slerp",
        "base_model": "base",
        "models": ["a", "b"],
        "parameters": {"t": 0.3, "treatment_base": "first", "treatment_scale": [0.6, 1.4]},
    },
    "treated linear": {
        "merge_method": "treated_linear",
        "base_model": "base",
        "models": [("a", 0.7), ("b", [0.1, 0.9])],
        "parameters": {"treatment_base": "none", "treatment_scale": [{"filter": "mlp", "value": 2.0}, {"value": 0.5}]},
    },
    "treated task_arithmetic, against another than the base": {
        "merge_method": "treated_task_arithmetic",
        "base_model": "c",
        "models": [("a", 0.7), ("b", -0.4)],
        "parameters": {"treatment_base": "base", "treatment_scale": 1.5, "treatment_svc": 0.0},
    },
    "nuslerp, weights that cancel": {"merge_method": "nuslerp", "models": [("a", 0.5), ("b", -0.5)]},
}


def recipe(entry):
    config = {key: value for key, value in entry.items() if key != "models"}
    config["models"] = [
        {"model": m[0], "parameters": {"weight": m[1]}} if isinstance(m, tuple) else {"model": m}
        for m in entry["models"]
    ]
    return config


def family(folder, dtype):
    base = random_weights(SHAPES, 0)
    weights = {"base": base}
    weights |= {name: random_weights(SHAPES, seed, near=base, scale=0.2) for seed, name in enumerate("abc", start=1)}
    weights["far"] = random_weights(SHAPES, 4)
    weights["near"] = random_weights(SHAPES, 5, near=weights["a"], scale=0.01)
    return {n: write_checkpoint(folder / n, w, dtype=dtype, config=FAMILY_CONFIG) for n, w in weights.items()}


@pytest.fixture(scope="module", params=["F32", "BF16"])
def measured(request, tmp_path_factory):
    folders = family(tmp_path_factory.mktemp("family"), request.param)
    models = {name: open_checkpoint(folder) for name, folder in folders.items()}
    base = models.pop("base")
    return request.param, folders, base, models, measure(base, models)


def merged(config, folders, out):
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def path(name):
        return str(folders[name].absolute())

    config = config | {"models": [entry | {"model": path(entry["model"])} for entry in config["models"]]}
    if "base_model" in config:
        config["base_model"] = path(config["base_model"])
    LoaderCache().loaders.clear()
    options = MergeOptions(device="cpu", copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(out), options)
    return open_checkpoint(out)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_prediction_is_what_mergekit_makes(name, measured, tmp_path):
    dtype, folders, base, models, grams = measured
    config = recipe(RECIPES[name])
    predicted = predict(grams, config)
    actual = measure(base, models | {"offspring": merged(config, folders, tmp_path / "out")}, known=grams)
    assert predicted.names == actual.names
    tolerance = 1e-5 if dtype == "F32" else 0.02  # bf16 rounds every weight of the offspring
    for metric in METRICS:
        wanted = kinship_matrix(actual, metric)
        np.testing.assert_allclose(kinship_matrix(predicted, metric), wanted, atol=tolerance * max(1, wanted.max()))
    for part in ({"kind": "attention"}, {"kind": "norms"}, {"layer": 1}):
        np.testing.assert_allclose(
            kinship_matrix(predicted.select(**part), "pcc"),
            kinship_matrix(actual.select(**part), "pcc"),
            atol=tolerance if dtype == "F32" else 0.05,
        )


@pytest.mark.parametrize("depth", [0, 0.25, 1 / 3, 0.5, 1])
@pytest.mark.parametrize(
    "setting",
    [0.3, 2, [0, 1], [0, 0.5, 0.3, 0.7, 1], GRADIENT, {"filter": "mlp", "value": 0.2}, [{"filter": "x", "value": 1}]],
)
@pytest.mark.parametrize(
    "tensor", ["model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"]
)
def test_settings_are_read_as_mergekit_reads_them(setting, tensor, depth):
    from mergekit.config import InputModelDefinition, evaluate_setting

    parsed = InputModelDefinition.model_validate({"model": "m", "parameters": {"x": setting}}).parameters["x"]
    wanted = evaluate_setting(tensor, parsed, depth, validate=float)
    assert evaluate(setting, tensor, depth) == (wanted if wanted is None else pytest.approx(wanted))


def test_an_offspring_of_an_offspring(measured):
    _, _, _, _, grams = measured
    one = predict(grams, recipe(RECIPES["linear"]), name="1-1")
    two = predict(one, recipe({"merge_method": "linear", "models": [("1-1", 1), ("c", 1)]}), name="2-1")
    direct = predict(grams, recipe({"merge_method": "linear", "models": [("a", 0.7), ("b", 0.5), ("c", 1.2)]}))
    np.testing.assert_allclose(
        two.of([name for name in two.names if name != "1-1"]).gram, direct.gram, rtol=1e-12, atol=1e-12
    )


def test_pairs_that_were_never_measured_stay_unknown(measured):
    _, _, _, _, grams = measured
    holes = grams.gram.copy()
    holes[:, 5, 1:5] = holes[:, 1:5, 5] = np.nan  # "near" met nobody
    predicted = predict(type(grams)(grams.names, grams.tensors, holes, grams.sums), recipe(RECIPES["linear"]))
    row = kinship_matrix(predicted, "pcc")[-1]
    assert np.isnan(row[4])
    assert np.isfinite(np.delete(row, 4)).all()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"merge_method": "ties"}, NotPredictable, "ties is not linear in the weights; predicted are linear, task_ar"),
        (
            {"merge_method": "treated_ties", "base_model": "base", "parameters": {"treatment_base": "base"}},
            NotPredictable,
            "ties is not linear in the weights",
        ),
        (
            {"merge_method": "treated_linear", "base_model": "base", "parameters": {"treatment_svc": 1.0}},
            NotPredictable,
            r"calibrated singular values \(svc\) are no known combination",
        ),
        ({"models": None, "slices": []}, NotPredictable, "only configurations that list whole models"),
        (
            {"models": [{"model": "a"}, {"model": "zoe"}]},
            UserError,
            "the merge names 'zoe', which was not measured; there",
        ),
        ({"models": [{"model": "a"}, {"model": "a"}]}, UserError, "expected each once"),
        ({"models": [{"model": "a"}, {"model": "b"}]}, UserError, "has no parameter weight for"),
        (
            {"parameters": {"weight": "heavy"}},
            UserError,
            "the parameter weight of the merge is 'heavy'; expected a number",
        ),
        ({"parameters": {"weight": 0}}, UserError, "add up to 0"),
        ({"merge_method": "slerp", "parameters": {"t": 0.5}}, UserError, "slerp needs a base_model"),
        ({"merge_method": "nuslerp", "parameters": {"nuslerp_flatten": False}}, NotPredictable, "only nuslerp_flatten"),
    ],
)
def test_what_cannot_be_predicted_says_why(change, kind, words, measured):
    grams = measured[-1]
    config = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}], "parameters": {}} | change
    with pytest.raises(kind, match=words):
        predict(grams, config)


def test_a_merge_of_two_that_are_the_same_but_for_scale(tmp_path):
    """Collinear deltas, on which the arc has no meaning."""
    base = random_weights(SHAPES, 0)
    delta = random_weights(SHAPES, 1, scale=0.1)
    for name, factor in (("base", 0), ("a", 1), ("b", 2)):
        weights = {key: torch.from_numpy(base[key] + factor * delta[key]) for key in base}
        write_checkpoint(tmp_path / name, weights)
    models = {name: open_checkpoint(tmp_path / name) for name in "ab"}
    grams = measure(open_checkpoint(tmp_path / "base"), models)
    config = {"merge_method": "nuslerp", "base_model": "base", "models": ["a", "b"], "parameters": {"weight": 1}}
    predicted = predict(grams, config)
    np.testing.assert_allclose(kinship_matrix(predicted, "pcc"), np.ones((3, 3)), rtol=1e-9)


@pytest.mark.slow
def test_prediction_on_the_embedded_family(tmp_path):
    """Real training, if only a little of it: embeddings tied, deltas that are no noise."""
    from src.zoo.family import train_family

    train_family(tmp_path, seed=0, effort=0.05, report=lambda *_: None)
    folders = {path.name: path for path in tmp_path.iterdir() if (path / "config.json").exists()}
    models = {name: open_checkpoint(path) for name, path in folders.items()}
    base = models.pop("base")
    grams = measure(base, models)
    founders = dict(zip(["a", "b", "c", "far", "near"], sorted(models), strict=True)) | {"base": "base"}
    for i, entry in enumerate(RECIPES.values()):
        config = json.loads(json.dumps(recipe(entry)))
        for model in config["models"]:
            model["model"] = founders[model["model"]]
        if "base_model" in config:
            config["base_model"] = founders[config["base_model"]]
        predicted = predict(grams, config)
        actual = measure(base, models | {"offspring": merged(config, folders, tmp_path / f"out{i}")}, known=grams)
        for metric in METRICS:
            wanted = kinship_matrix(actual, metric)
            np.testing.assert_allclose(kinship_matrix(predicted, metric), wanted, atol=1e-4 * max(1, wanted.max()))
