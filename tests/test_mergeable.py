"""What mergekit could not merge is refused in the plan, and nothing else is: held against mergekit's own merges."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from src.config import Merge
from src.models import merging
from src.models.checkpoint import open_checkpoint
from src.runtime.errors import UserError
from tests.conftest import Command, run
from tests.test_mistakes import check_refused

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
GPT2: dict[str, Any] = {"vocab_size": 32, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
LINEAR = Merge(method="linear", base_model=None, parameters={"weight": 1.0}, each={}, dtype=None, tokenizer_source=None)
# Configuration of transformers, and the first tensor that mergekit misses in what transformers saves.
KINDS: dict[str, tuple[transformers.PreTrainedConfig, str | None]] = {
    "llama": (transformers.LlamaConfig(**SIZES), None),
    "llama, tied": (transformers.LlamaConfig(**SIZES, tie_word_embeddings=True), None),
    "mistral": (transformers.MistralConfig(**SIZES, num_key_value_heads=2, head_dim=8), None),
    "qwen2": (transformers.Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True), None),
    "gemma": (transformers.GemmaConfig(**SIZES, num_key_value_heads=2, head_dim=8), None),
    "mixtral": (transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2), None),
    "gpt2": (transformers.GPT2Config(**GPT2), None),
    "opt": (transformers.OPTConfig(**{**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}), None),  # not in its tables
    "gpt-neox": (transformers.GPTNeoXConfig(**SIZES), "gpt_neox.layers.0.attention.bias"),
    "falcon": (
        transformers.FalconConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
        "transformer.h.0.ln_attn.bias",
    ),
}


def save(config: transformers.PreTrainedConfig, folder: Path, *names: str) -> dict[str, Path]:
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    return {name: folder / name for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_what_mergekit_will_ask_for_is_what_it_asks_for(tmp_path: Path, kind: str) -> None:
    config, missing = KINDS[kind]
    paths = save(config, tmp_path, "a", "b")
    checkpoints = {name: open_checkpoint(path) for name, path in paths.items()}
    recipe = merging.recipe(LINEAR, ["a", "b"], seed=0, threads=1)
    if missing is None:
        merging.check_tensors(checkpoints)
        merging.merge(recipe, paths, tmp_path / "out")
        return
    with pytest.raises(UserError, match=f"a has no tensor {missing}, which mergekit requires of .*ForCausalLM"):
        merging.check_tensors(checkpoints)
    with pytest.raises(RuntimeError, match=missing):
        merging.merge(recipe, paths, tmp_path / "out")


def test_a_gpt_neox_that_has_the_buffers_of_old_is_merged(tmp_path: Path) -> None:
    paths = save(KINDS["gpt-neox"][0], tmp_path, "a", "b")
    for path in paths.values():
        tensors = load_file(path / "model.safetensors")
        for layer in range(SIZES["num_hidden_layers"]):
            at = f"gpt_neox.layers.{layer}.attention"
            tensors[f"{at}.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
            tensors[f"{at}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{at}.rotary_emb.inv_freq"] = torch.ones(1)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    merging.check_tensors({name: open_checkpoint(path) for name, path in paths.items()})
    merging.merge(merging.recipe(LINEAR, ["a", "b"], seed=0, threads=1), paths, tmp_path / "out")


@pytest.mark.parametrize("plan", [False, True], ids=["run", "plan"])
def test_a_family_that_mergekit_cannot_merge(tmp_path: Path, family: Path, plan: bool) -> None:
    save(KINDS["gpt-neox"][0], tmp_path, "base", "one", "two")
    outcome = run(
        "strategy=kinship_topk",
        "founders=local",
        f"founders.base={tmp_path / 'base'}",
        f"founders.models={{one:{tmp_path / 'one'},two:{tmp_path / 'two'}}}",
        "evaluate.tasks=[pico_words]",
        f"evaluate.include={family / 'tasks'}",
        f"outputs={tmp_path / 'outputs'}",
        f"dry_run={plan}",
        "track=none",
        "cache=off",
    )
    check_refused(
        outcome, "one has no tensor gpt_neox.layers.0.attention.bias, which mergekit requires of GPTNeoXForCausalLM"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("merging", "words"),
    [
        (["merge.parameters.t=nan"], "merge.parameters.t is nan; expected finite numbers"),
        (["merge.parameters.t=-inf"], "merge.parameters.t is -inf; expected finite numbers"),
        (["merge.parameters.t='nan'"], "merge.parameters.t is 'nan'; expected finite numbers"),
        (["merge.parameters.t=[0,nan,1]"], "merge.parameters.t is [0, nan, 1]; expected finite numbers"),
        (["merge.parameters.t=[{filter:mlp,value:inf},{value:0.5}]"], "expected finite numbers"),
        (["merge.parameters.t=[{filter:mlp,value:[0,inf]},{value:0.5}]"], "expected finite numbers"),
        (["merge.parameters.t=[{filter:mlp,value:half},{value:0.5}]"], "expected float, or a gradient of such"),
        (["merge=ties", "merge.each.density=nan"], "merge.each.density is nan; expected finite numbers"),
    ],
)
def test_a_parameter_that_is_no_number(evolve: Command, tmp_path: Path, merging: list[str], words: str) -> None:
    check_refused(evolve(*merging, "dry_run=true"), words)
    assert not (tmp_path / "outputs").exists()


def test_gradients_and_filters_of_numbers_are_taken(evolve: Command) -> None:
    found = evolve(
        "merge.parameters.t=[{filter:mlp,value:[0,0.5,1]},{filter:norm,value:'1e-1'},{value:0.5}]", "dry_run=true"
    )
    assert found.status == 0, found.err
