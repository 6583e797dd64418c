"""RegMean, and what it reads: the inputs of founders' weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from src.models.methods import inputs
from src.models.methods.inputs.__main__ import main as command
from src.models.methods.matrices import digest
from src.runtime.errors import UserError
from tests.conftest import Command
from tests.family import FOUNDERS

PROMPTS = ["the cat sat", "abc", "vowels are a e i o u"]
LINEAR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def seen(family: Path, tmp_path: Path) -> Path:
    """The inputs of every founder, by the command."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    for name in FOUNDERS:
        given = [str(tmp_path / "inputs"), str(family / name), "--prompts", str(tmp_path / "prompts.txt")]
        assert command([*given, "--device", "cpu"]) == 0
    return tmp_path / "inputs"


def test_what_a_weight_saw_is_what_comes_into_its_layer(family: Path, seen: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(family / "red", dtype=torch.float32).eval()
    caught: list[torch.Tensor] = []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    vocabulary = "<s>", "</s>", "<pad>", *" abcdefghijklmnopqrstuvwxyz?"
    for line in PROMPTS:
        model(input_ids=torch.tensor([[vocabulary.index(letter) for letter in line]]))
    x = torch.cat([one[0] for one in caught]).double()
    found = inputs.load_covariance(seen, digest(load_file(family / "red" / "model.safetensors")[LINEAR]))
    assert torch.allclose(found.double(), x.mT @ x / len(x), atol=1e-5)


def test_gpt2_s_weights_are_known_by_the_matrix_that_merges_them() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_inner=12)).eval()
    means, known = inputs.collect(model, [torch.arange(5)])
    weight = model.transformer.h[0].mlp.c_proj.weight
    assert means[known[digest(weight.mT)]].shape == (12, 12)
    assert len(known) == 4


def numpy_regmean(deltas: list[np.ndarray], grams: list[np.ndarray], rho: float, anchor: float) -> np.ndarray:
    ridge = rho * np.trace(sum(grams)) / len(grams[0])
    answers = sum(d @ g for d, g in zip(deltas, grams, strict=True)) + ridge * anchor * sum(deltas)
    return answers @ np.linalg.inv(sum(grams) + ridge * np.eye(len(grams[0])))


def write(folder: Path, weights: list[torch.Tensor], grams: list[torch.Tensor]) -> None:
    for index, (weight, gram) in enumerate(zip(weights, grams, strict=True)):
        save_file({"g": gram}, folder / f"{index}.safetensors", metadata={digest(weight.float()): "g"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_numpy_has_it(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    founders = [base + 0.3 * torch.randn(6, 5) for _ in range(3)]
    grams = [(x := torch.randn(9, 5)).mT @ x for _ in range(3)]
    write(tmp_path, founders, grams)
    given = [tensor.to(dtype) for tensor in (base, *founders)]
    parameters = {"inputs": str(tmp_path), "scale": 1.0, "rho": 0.2, "anchor": 0.3}
    found = merge_tensors(given, "regmean", parameters=parameters, base_index=0, name=LINEAR)
    deltas = [(founder.double() - base.double()).numpy() for founder in founders]
    expected = base.double().numpy() + numpy_regmean(deltas, [g.double().numpy() for g in grams], 0.2, 0.3)
    assert np.abs(found.double().numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_inputs_that_nobody_saw_leave_the_anchor(tmp_path: Path) -> None:
    base, *founders = (torch.randn(6, 5) for _ in range(3))
    write(tmp_path, founders, [torch.zeros(5, 5)] * 2)
    parameters = {"inputs": str(tmp_path), "scale": 1.0, "anchor": 0.3}
    found = merge_tensors([base, *founders], "regmean", parameters=parameters, base_index=0, name=LINEAR)
    assert torch.allclose(found, base + 0.3 * (sum(founders) - 2 * base), atol=1e-5)


def test_one_shot(evolve: Command, seen: Path, tmp_path: Path) -> None:
    outcome = evolve("strategy=one_shot", "merge=regmean", f"merge.parameters.inputs={seen}")
    assert outcome.status == 0, outcome.err
    assert "1-1" in outcome.out
    weights: Mapping[str, torch.Tensor] = load_file(tmp_path / "outputs/run/best/model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_folder_that_is_not_there_ends_before_any_work(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("strategy=one_shot", "merge=regmean")
    assert outcome.status == 2
    assert "merge.parameters.inputs" in outcome.err
    assert not (tmp_path / "outputs/run/journal.jsonl").exists()


def test_a_founder_that_has_read_nothing_is_said(tmp_path: Path) -> None:
    base, *founders = (torch.randn(6, 5) for _ in range(3))
    parameters = {"inputs": str(tmp_path)}
    with pytest.raises(UserError, match="has no inputs of one of the parents"):
        merge_tensors([base, *founders], "regmean", parameters=parameters, base_index=0, name=LINEAR)


def test_mistakes_cost_a_line(seen: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(family / "red")
    assert command([str(seen), model, "--prompts", str(tmp_path / "prompts.txt"), "--device", "cpu"]) == 2
    assert "already" in capsys.readouterr().err
    assert command([str(tmp_path / "a"), model, "--prompts", str(tmp_path / "none.txt")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text("")
    assert command([str(tmp_path / "a"), model, "--prompts", str(tmp_path / "empty.txt")]) == 2
    assert "there are no prompts" in capsys.readouterr().err
    assert command([str(tmp_path / "empty.txt"), model, "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "is a file; expected the folder" in capsys.readouterr().err
