"""What holds for every option of `merge=`: mergekit's methods, our own, and the one of docs/extending.md."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from src.config import Merge, read
from src.models import merging
from src.models.methods import METHODS, inputs
from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint
from tests.docs import own_method

CONF = Path(__file__).parent.parent.parent / "conf"
OPTIONS = [*sorted(file.stem for file in (CONF / "merge").glob("*.yaml")), "mine"]
OWN = [method.spec.name for method in METHODS]
DRAWN = {"dare_linear", "dare_ties", "della"}
"""Their seed draws what is dropped, a parent after the other: who comes first matters."""
FIRST_COUNTS = {"slerp", "slerp_gradient"}
"""Their t is counted from the better parent."""
PAIRS = {"slerp", "slerp_gradient", "nuslerp"}
ITSELF: dict[str, dict[str, Any]] = {
    "mine": {"parameters": {"share": 1.0}},
    "linear": {"each": {"weight": 1.0}},
    "task_arithmetic": {"each": {"weight": 1.0}},
    "ties": {"each": {"weight": 1.0, "density": 1.0}},
    "dare_linear": {"each": {"weight": 1.0, "density": 1.0}},
    "dare_ties": {"each": {"weight": 1.0, "density": 1.0}},
    "breadcrumbs": {"each": {"weight": 1.0, "density": 1.0, "gamma": 0.0}},
    "della": {"each": {"weight": 1.0, "density": 1.0, "epsilon": 0.0}},
    **{name: {"parameters": {"scale": 1.0, "rest": 1.0}} for name in OWN},
}
"""What makes a method give its only parent back, of those that take one."""
Family = Mapping[str, Path]


def chosen(option: str, **changed: Mapping[str, Any]) -> Merge:
    """The shipped configuration, with some of its values changed."""
    if option == "mine":
        found = chosen("task_arithmetic").model_copy(update={"method": own_method(), "parameters": {}, "each": {}})
        return found.model_copy(update=changed)
    with initialize_config_dir(str(CONF)):
        found = read(compose("config", [f"merge={option}", "strategy=one_shot", "name=run"])).merge
    return found.model_copy(update={key: {**getattr(found, key), **value} for key, value in changed.items()})


def merged(option: str, family: Family, parents: list[str], out: Path, **changed: Any) -> dict[str, torch.Tensor]:
    settings = chosen(option, **changed)
    if "inputs" in settings.parameters:
        settings.parameters["inputs"] = str(seen_by(family, out.parent / "inputs"))
    merging.check(settings, len(parents))
    merging.merge(merging.recipe(settings, parents, seed=3, threads=1), family, out)
    return load_file(out / "model.safetensors")


def seen_by(family: Family, folder: Path) -> Path:
    """What every model's weights see while it reads the same few tokens; the folder stays as it is if it is there."""
    if not folder.exists():
        folder.mkdir()
        for name, path in family.items():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            means, seen = inputs.collect(model, [torch.arange(11), torch.tensor([3, 1, 4, 1, 5])])
            save_file(means, folder / f"{name}.safetensors", metadata=seen)
    return folder


def write(folder: Path, dtype: str, *, tied: bool = False, biases: bool = False) -> Family:
    """A base and three founders: Llama's tensors, or Qwen2's, which has biases too."""
    config: dict[str, Any] = {**CONFIG, "tie_word_embeddings": tied}
    shapes = llama_shapes(tied=tied)
    if biases:
        config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        shapes |= {f"model.layers.{layer}.self_attn.{x}_proj.bias": (8,) for layer in range(2) for x in "qkv"}
    base = random_weights(shapes, 0)
    family = {"base": write_checkpoint(folder / "base", base, dtype=dtype, config=config)}
    for seed, name in enumerate(("red", "green", "blue"), 1):
        weights = random_weights(shapes, seed, near=base, scale=0.1)
        family[name] = write_checkpoint(folder / name, weights, dtype=dtype, config=config)
    return family


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return write(tmp_path_factory.mktemp("plain"), "F32")


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("option", OPTIONS)
def test_twice_the_same_bytes_and_the_parents_untouched(option: str, plain: Family, tmp_path: Path) -> None:
    before = digests(plain["base"].parent)
    for out in ("one", "two"):
        merged(option, plain, ["red", "green"], tmp_path / out)
    one, two = (digests(tmp_path / out) for out in ("one", "two"))
    assert list(one.values()) == list(two.values())
    assert digests(plain["base"].parent) == before


@pytest.mark.parametrize("option", OPTIONS)
def test_every_tensor_is_there_in_its_shape_and_finite(option: str, plain: Family, tmp_path: Path) -> None:
    base = load_file(plain["base"] / "model.safetensors")
    parents = ["red", "green", *(["blue"] if option not in PAIRS else [])]
    found = merged(option, plain, parents, tmp_path / "out", parameters={"rest": 0.3} if option in OWN else {})
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in base.items()}
    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    moved = [name for name, tensor in found.items() if not torch.equal(tensor, base[name])]
    assert {"model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"} <= set(moved)


@pytest.mark.parametrize("option", sorted(ITSELF))
def test_the_only_parent_is_given_back(option: str, plain: Family, tmp_path: Path) -> None:
    found = merged(option, plain, ["red"], tmp_path / "out", **ITSELF[option])
    parent = load_file(plain["red"] / "model.safetensors")
    for name, tensor in found.items():
        if option in OWN or option == "linear":
            assert torch.equal(tensor, parent[name]), name
        else:  # mergekit adds the delta to the base in the weights' own precision
            assert torch.allclose(tensor, parent[name], atol=1e-6), name


@pytest.mark.parametrize("option", sorted({*OPTIONS} - DRAWN - FIRST_COUNTS))
def test_the_order_of_the_parents_does_not_matter(option: str, plain: Family, tmp_path: Path) -> None:
    parents = ["red", "green", *(["blue"] if option not in PAIRS else [])]
    one = merged(option, plain, parents, tmp_path / "one")
    two = merged(option, plain, parents[::-1], tmp_path / "two")
    for name in one:
        if option in OWN:
            assert torch.equal(one[name], two[name]), name
        else:
            assert torch.allclose(one[name], two[name], atol=1e-5), name


@pytest.mark.parametrize("option", OPTIONS)
def test_bf16_comes_out_as_it_went_in(option: str, plain: Family, tmp_path: Path) -> None:
    short = write(tmp_path, "BF16")
    found = merged(option, short, ["red", "green"], tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    if option in OWN:  # computed exactly and rounded once: the wide merge of the same values, rounded
        wide = {
            name: write_checkpoint(
                tmp_path / "wide" / name,
                {key: tensor.double().numpy() for key, tensor in load_file(path / "model.safetensors").items()},
                dtype="F64",
            )
            for name, path in short.items()
        }
        exact = merged(option, wide, ["red", "green"], tmp_path / "exact")
        assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in found.items())


@pytest.mark.parametrize("option", OPTIONS)
def test_a_tied_head_is_merged_once_with_its_embeddings(option: str, tmp_path: Path) -> None:
    found = merged(option, write(tmp_path, "F32", tied=True), ["red", "green"], tmp_path / "out")
    assert "lm_head.weight" not in found
    assert torch.isfinite(found["model.embed_tokens.weight"]).all()


@pytest.mark.parametrize("option", OPTIONS)
def test_biases_are_merged_as_the_rest_is(option: str, tmp_path: Path) -> None:
    family = write(tmp_path, "F32", biases=True)
    found = merged(
        option, family, ["red", "green"], tmp_path / "out", parameters={"rest": 0.3} if option in OWN else {}
    )
    name = "model.layers.0.self_attn.q_proj.bias"
    base, red, green = (load_file(family[who] / "model.safetensors")[name] for who in ("base", "red", "green"))
    assert not torch.equal(found[name], base)
    if option in OWN:
        assert torch.allclose(found[name], base + 0.3 * (red + green - 2 * base), atol=1e-6)
