"""Treatments of what mergekit's own methods merged: against plain numpy, at their limits, and through both doors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import BasePolicy
from safetensors.torch import load_file

from src.config import Lines, Merge, Treatment
from src.models import merging
from src.models.methods import is_ours
from src.models.methods.lineage import from_founders
from src.runtime.names import TREATED
from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint
from tests.models.test_every_merge import OPTIONS, OWN, PAIRS, Family, chosen
from tests.models.test_methods import LINEAR, TABLE, close, merge, numpy_svc, tensors, write_gpt2

THEIRS = [option for option in OPTIONS if option not in OWN]
LAYERS = 3


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A base and two founders of three layers, so that a gradient has a middle."""
    folder, shapes = tmp_path_factory.mktemp("family"), llama_shapes(layers=LAYERS)
    config, base = {**CONFIG, "num_hidden_layers": LAYERS}, random_weights(shapes, 0)
    found = {"base": write_checkpoint(folder / "base", base, config=config)}
    for seed, name in enumerate(("red", "green"), 1):
        weights = random_weights(shapes, seed, near=base, scale=0.3)
        found[name] = write_checkpoint(folder / name, weights, config=config)
    return found


def merged(settings: Merge, family: Family, out: Path) -> dict[str, torch.Tensor]:
    parents = [name for name in family if name != "base"]
    merging.check(settings, len(parents))
    merging.merge(merging.recipe(settings, parents, seed=3, threads=1), family, out)
    return load_file(out / "model.safetensors")


def numpy_slerp(base: np.ndarray, first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    angle = np.arccos((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle) - base


def numpy_ties(base: np.ndarray, *models: np.ndarray, density: float) -> np.ndarray:
    trimmed = []
    for model in models:
        delta = model - base
        least = np.sort(np.abs(delta), axis=None)[::-1][max(1, int(density * delta.size)) - 1]
        trimmed.append(np.where(np.abs(delta) >= least, delta, 0))
    agree = [np.sign(one) == np.where(sum(trimmed) >= 0, 1, -1) for one in trimmed]
    total = sum(one * mask for one, mask in zip(trimmed, agree, strict=True))
    return total / np.maximum(sum(mask.astype(float) for mask in agree), 1)


def numpy_sum(base: np.ndarray, *models: np.ndarray, weight: float) -> np.ndarray:
    return weight * sum(model - base for model in models)


INNER: dict[str, tuple[dict[str, Any], Any]] = {
    "slerp": ({"t": 0.3, "treatment_base": "first"}, lambda *m: numpy_slerp(*m, t=0.3)),
    "ties": (
        {"weight": 1.0, "density": 0.5, "treatment_base": "base"},
        lambda *m: numpy_ties(*m, density=0.5),
    ),
    "task_arithmetic": ({"weight": 0.4, "treatment_base": "base"}, lambda *m: numpy_sum(*m, weight=0.4)),
}
"""Parameters of a merge of two, and what it changes against the base: base, first, second, all [d_out, d_in]."""


@pytest.mark.parametrize("shape", [(6, 5), (4, 9), (7, 7)])
@pytest.mark.parametrize(("scale", "svc"), [(1.5, 0.0), (1.0, 1.0), (0.7, 0.5)])
@pytest.mark.parametrize("method", INNER)
def test_as_numpy_has_it(method: str, scale: float, svc: float, shape: tuple[int, int]) -> None:
    given = tensors(shape, 2)
    parameters, inner = INNER[method]
    arrays = [tensor.double().numpy() for tensor in given]
    delta = inner(*arrays)
    deltas = [founder - arrays[0] for founder in arrays[1:]]
    for name, expected in ((LINEAR, numpy_svc(delta, deltas, svc) if svc else delta), (TABLE, delta)):
        treatment = {"treatment_scale": scale, "treatment_svc": svc}
        found = merge(TREATED + method, given, name=name, **parameters, **treatment)
        assert found.dtype == torch.float32
        assert close(found, given[0], scale * expected), name


@pytest.mark.parametrize("method", ["slerp", "ties", "task_arithmetic"])
def test_lines_through_the_configuration_as_numpy_has_it(method: str, family: Family, tmp_path: Path) -> None:
    """alpha + beta l / (L - 1) in layer l, alpha outside the layers; the offspring's merge is that of the settings."""
    settings = chosen(method)
    treatment = Treatment(scale=0.5, lines=Lines(alpha=0.8, beta=1.2), svc=1.0)
    found = merged(settings.model_copy(update={"treatment": treatment}), family, tmp_path / "treated")
    base, red, green = (
        {key: tensor.double().numpy() for key, tensor in load_file(path / "model.safetensors").items()}
        for path in family.values()
    )
    plain = {key: value.double().numpy() for key, value in merged(settings, family, tmp_path / "plain").items()}
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        change = plain[name] - base[name]
        if ".layers." in name and change.ndim == 2:
            change = numpy_svc(change, [red[name] - base[name], green[name] - base[name]], 1.0)
        factor = 0.5 * (0.8 + 1.2 * layer / (LAYERS - 1))
        assert close(tensor, torch.from_numpy(base[name]), factor * change), name


@pytest.mark.parametrize("option", THEIRS)
def test_a_treatment_that_changes_nothing_gives_the_same_bytes(option: str, family: Family, tmp_path: Path) -> None:
    settings = chosen(option)
    recipe = merging.recipe(settings, ["red", "green"], seed=3, threads=1)
    merging.merge(recipe, family, tmp_path / "plain")
    neutral = settings.model_copy(update={"treatment": Treatment(lines=Lines(alpha=1.0, beta=0.0))})
    treated = merging.recipe(neutral, ["red", "green"], seed=3, threads=1)
    assert treated.config["merge_method"] == TREATED + settings.method
    merging.merge(treated, family, tmp_path / "treated")
    one, two = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("plain", "treated"))
    assert one == two


@pytest.mark.parametrize("option", THEIRS)
def test_every_method_of_mergekit_s_is_treated(option: str, family: Family, tmp_path: Path) -> None:
    """Whatever the method is, and whatever the seed draws: its change times two, in the parents' dtype, twice."""
    settings = chosen(option)
    plain = merged(settings, family, tmp_path / "plain")
    twofold = settings.model_copy(update={"treatment": Treatment(scale=2.0)})
    found, again = (merged(twofold, family, tmp_path / out) for out in ("one", "two"))
    base = load_file(family["base"] / "model.safetensors")
    for name, tensor in found.items():
        assert torch.equal(tensor, again[name])
        assert torch.allclose(tensor, 2 * plain[name] - base[name], atol=1e-6), name


def test_no_treatment_leaves_recipes_as_they_were() -> None:
    settings = chosen("ties")
    assert settings.treatment is None
    config = merging.recipe(settings, ["red", "green"], seed=3, threads=1).config
    assert config["merge_method"] == "ties"
    assert config["parameters"] == settings.parameters
    spelled_out = Merge.model_validate({**settings.model_dump(), "treatment": Treatment().model_dump()})
    assert spelled_out == settings


def test_every_registered_method_is_treated_or_treats_itself() -> None:
    names = {method.spec.name for method in registry.registered_methods()}
    for name in names:
        assert (TREATED + name in names) == (name not in OWN and not name.startswith(TREATED)), name
        assert is_ours(name) == (name in OWN or name.startswith(TREATED))


def test_sixteen_bits_are_treated_in_float32_and_rounded_once(tmp_path: Path) -> None:
    shapes = llama_shapes()
    base = random_weights(shapes, 0)
    paths: dict[str, dict[str, Path]] = {}
    for dtype in ("BF16", "F32"):  # the same values
        weights = {"base": base} | {n: random_weights(shapes, i, near=base, scale=0.1) for i, n in enumerate("ab", 1)}
        rounded = {
            name: {k: torch.from_numpy(v).bfloat16().double().numpy() for k, v in one.items()}
            for name, one in weights.items()
        }
        paths[dtype] = {n: write_checkpoint(tmp_path / dtype / n, one, dtype=dtype) for n, one in rounded.items()}
    settings = chosen("ties").model_copy(update={"treatment": Treatment(scale=1.3, svc=1.0)})
    found = {}
    for dtype, models in paths.items():
        recipe = merging.recipe(settings, ["a", "b"], seed=0, threads=1, stored=dtype)
        merging.merge(recipe, models, tmp_path / dtype / "out")
        found[dtype] = load_file(tmp_path / dtype / "out/model.safetensors")
    for name, tensor in found["BF16"].items():
        assert torch.equal(tensor, found["F32"][name].bfloat16()), name


@pytest.mark.parametrize("svc", [0.5, 1.0])
def test_one_model_s_change_is_its_own_calibration(svc: float) -> None:
    given = tensors((6, 5), 1)
    found = merge("treated_task_arithmetic", given, weight=1.0, treatment_base="base", treatment_svc=svc)
    assert torch.allclose(found, given[1], atol=1e-6)


def test_models_of_weight_zero_or_without_a_change_do_not_count_in_the_calibration() -> None:
    base, *models = tensors((6, 5), 3)
    given: dict[str, Any] = {"treatment_base": "base", "treatment_svc": 1.0}
    two = merge("treated_task_arithmetic", [base, *models[:2]], weight=1.0, **given)
    assert torch.equal(two, merge("treated_task_arithmetic", [base, *models], weight=[1.0, 1.0, 0.0], **given))
    assert torch.equal(two, merge("treated_task_arithmetic", [base, *models[:2], base.clone()], weight=1.0, **given))
    still = merge("treated_task_arithmetic", [base, base.clone()], weight=1.0, **given)
    assert torch.equal(still, base)


def test_not_a_number_spoils_the_tensor_and_raises_nothing() -> None:
    base, first, second = tensors((6, 5), 2)
    first[0, 0] = torch.nan
    given: dict[str, Any] = {"weight": 1.0, "treatment_base": "base", "treatment_svc": 1.0}
    assert torch.isnan(merge("treated_task_arithmetic", [base, first, second], **given)).any()


@pytest.mark.parametrize("option", sorted({"linear", "task_arithmetic", "ties", "model_stock", "nuslerp"} & {*THEIRS}))
def test_the_order_of_the_parents_does_not_matter(option: str, family: Family, tmp_path: Path) -> None:
    settings = chosen(option).model_copy(update={"treatment": Treatment(scale=1.5, svc=0.5)})
    found = []
    for order in (["red", "green"], ["green", "red"]):
        out = tmp_path / order[0]
        merging.merge(merging.recipe(settings, order, seed=3, threads=1), family, out)
        found.append(load_file(out / "model.safetensors"))
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name


def test_transposed_weights_are_calibrated_as_maps(tmp_path: Path) -> None:
    paths = write_gpt2(tmp_path)
    family = dict(zip(("base", "one", "two"), paths, strict=True))
    settings = chosen("ties").model_copy(update={"treatment": Treatment(svc=1.0)})
    found = merged(settings, family, tmp_path / "out")
    loaded = [load_file(path / "model.safetensors") for path in paths]
    parameters = {"weight": 1.0, "density": 0.5, "treatment_base": "base", "treatment_svc": 1.0}
    for leaf in ("attn.c_attn", "mlp.c_proj"):
        name = f"transformer.h.1.{leaf}.weight"
        given = [weights[name] for weights in loaded]
        map_ = merge("treated_ties", [tensor.mT.contiguous() for tensor in given], **parameters)
        assert torch.allclose(found[name], map_.mT, atol=1e-6), leaf
        assert not torch.allclose(found[name], merge("treated_ties", given, **parameters), atol=1e-4), leaf


@pytest.mark.parametrize("option", ["linear", "task_arithmetic"])
def test_what_is_treated_does_not_compose(option: str) -> None:
    settings = chosen(option).model_copy(update={"treatment": Treatment(scale=1.5)})
    known = {"p": merging.recipe(settings, ["a", "b"], seed=0, threads=1).as_dict()}
    for plain in (settings, settings.model_copy(update={"treatment": None})):
        config = merging.recipe(plain, ["p", "c"], seed=0, threads=1).config
        assert from_founders(config, known) is config


def test_pairs_are_merged_from_their_better_parent_and_treated_against_the_ancestor() -> None:
    for option in PAIRS:
        settings = chosen(option).model_copy(update={"treatment": Treatment(scale=1.5)})
        recipe = merging.recipe(settings, ["a", "b"], seed=0, threads=1)
        assert recipe.models == ["a", "b", "base"]
        expected = "first" if settings.base_model == "parent" else "none"
        assert recipe.config["parameters"]["treatment_base"] == expected
        assert (recipe.config["base_model"], recipe.donor) == ("base", "a")


def test_a_method_that_takes_no_base_is_never_given_one() -> None:
    ignored = [m for m in registry.registered_methods() if m.spec.contract.base == BasePolicy.IGNORED]
    assert {"linear"} <= {method.spec.name for method in ignored}
    base, *models = tensors((6, 5), 2)
    treated: Sequence[torch.Tensor] = [base, *models]
    found = merge("treated_linear", treated, weight=[1.0, 3.0], treatment_base="none", treatment_scale=2.0)
    assert torch.allclose(found, 2 * (models[0] + 3 * models[1]) / 4 - base, atol=1e-6)
