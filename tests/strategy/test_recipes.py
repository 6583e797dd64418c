"""Recipes: weights by block as mergekit filters, and back; what the parts of a model are."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.kinship.grams import Grams, Tensor
from src.kinship.kinds import kind_of, layer_of
from src.kinship.recipe import evaluate
from src.population import Model, Population
from src.strategy.recipes import Blocks, FineDivision, weighted, weights_of

LLAMA = [
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(12)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")
    ),
]
GPT2 = [
    "wte.weight",
    "wpe.weight",
    "ln_f.weight",
    *(f"h.{layer}.{part}" for layer in range(12) for part in ("attn.c_attn.weight", "mlp.c_fc.weight", "ln_1.weight")),
]


def geometry(names: list[str], models: tuple[str, ...] = ("a", "b")) -> Grams:
    tensors = tuple(Tensor(name, kind_of(name), layer_of(name), 4) for name in names)
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(len(names), len(models) + 1, 5))
    return Grams(models, tensors, halves @ halves.transpose(0, 2, 1), rng.normal(size=(len(names), len(models) + 1)))


@dataclass(frozen=True)
class Parts:
    whole: int = 1
    part: int = 4
    layer: int = 26
    tensor: int | None = None


@pytest.mark.parametrize("names", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("division", ["whole", "part", "layer", "tensor"])
def test_filters_give_every_tensor_the_weight_of_its_block(names: list[str], division: FineDivision) -> None:
    measured = geometry(names)
    blocks = Blocks.of(division, measured)
    assert len(blocks.names) == (getattr(Parts(), division) or len(names))
    weights = np.arange(1, len(blocks.names) + 1) / 8
    setting = blocks.setting(weights)
    for tensor, block in zip(measured.tensors, blocks.members, strict=True):
        assert evaluate(setting, tensor.name, 0.5) == weights[block]  # as mergekit reads it


@given(st.data())
def test_what_a_setting_says_is_read_back(data: st.DataObject) -> None:
    division: FineDivision = data.draw(st.sampled_from(["whole", "part", "layer", "tensor"]))
    blocks = Blocks.of(division, geometry(LLAMA))
    weights = data.draw(st.lists(st.sampled_from([0.0, -0.25, 0.5, 1.0]), min_size=len(blocks.names)))[
        : len(blocks.names)
    ]
    found = blocks.weights(blocks.setting(weights))
    assert found is not None
    assert found.tolist() == weights


def test_a_tensor_whose_name_is_part_of_another_has_no_filter_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"no filter tells norm\.weight from ln_norm\.weight"):
        Blocks.of("tensor", geometry(["wte.weight", "ln_norm.weight", "norm.weight"]))


def test_a_recipe_of_somebody_else_is_no_point_of_the_space() -> None:
    blocks = Blocks.of("part", geometry(LLAMA))
    for setting in ([0.1, 0.5], [{"filter": "q_proj", "value": 1.0}, {"value": 0.5}], "half", [{"filter": "mlp"}]):
        assert blocks.weights(setting) is None


def test_a_proposal_leaves_out_who_has_no_weight_and_names_the_better_parent_first() -> None:
    population = Population((Model("a", average=40.0), Model("b", average=50.0), Model("c", average=45.0)))
    blocks = Blocks.of("part", geometry(LLAMA, ("a", "b", "c")))
    proposal = weighted(population, {"a": [0.5] * 4, "b": [0.1, 0.2, 0.3, 0.4], "c": [0.0] * 4}, blocks)
    assert proposal.parents == ("b", "a")
    made = Model("1-1", 1, proposal.parents, merge=proposal.merge)
    found = weights_of(made, ("a", "b", "c"), blocks)
    assert found is not None
    assert found.tolist() == [[0.5] * 4, [0.1, 0.2, 0.3, 0.4], [0.0] * 4]
    assert proposal.key in population.add(made).merged()


def test_the_runs_own_merge_is_a_recipe_where_it_adds_deltas() -> None:
    blocks = Blocks.of("part", None)
    entries = [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b", "parameters": {"weight": 1.5}}]
    made = Model("1-1", 1, ("a", "b"), recipe={"config": {"merge_method": "linear", "models": entries}})
    found = weights_of(made, ("a", "b"), blocks)
    assert found is not None
    assert found.tolist() == [[0.25], [0.75]]
    arithmetic = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": entries,
        "parameters": {"lambda": 2},
    }
    found = weights_of(Model("1-1", 1, ("a", "b"), recipe={"config": arithmetic}), ("a", "b"), blocks)
    assert found is not None
    assert found.tolist() == [[1.0], [3.0]]
    slerp = {"merge_method": "slerp", "base_model": "a", "models": entries, "parameters": {"t": 0.5}}
    assert weights_of(Model("1-1", 1, ("a", "b"), recipe={"config": slerp}), ("a", "b"), blocks) is None


def test_gram_matrices_add_up_over_the_blocks() -> None:
    measured = geometry(LLAMA)
    grams = Blocks.of("layer", measured).grams(measured, ["b", "a"])
    np.testing.assert_allclose(grams.sum(0), measured.gram.sum(0)[1:, 1:][::-1, ::-1])
