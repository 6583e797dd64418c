"""Pico checkpoints, made on the spot: what a test needs to be a model on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": False,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def llama_shapes(
    *, vocab: int = 11, hidden: int = 8, mlp: int = 12, layers: int = 2, tied: bool = False
) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama of these sizes, as transformers names them."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"}
        shapes |= {f"{at}.mlp.{x}_proj.weight": (mlp, hidden) for x in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (hidden, mlp)}
        shapes |= {f"{at}.{x}_layernorm.weight": (hidden,) for x in ("input", "post_attention")}
    return shapes if tied else shapes | {"lm_head.weight": (vocab, hidden)}


def random_weights(
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    *,
    near: Mapping[str, np.ndarray] | None = None,
    scale: float = 1.0,
) -> dict[str, np.ndarray]:
    """Float64 weights, normal with deviation `scale`, added to those that they are to be `near`."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape) * scale + (near[name] if near is not None else 0)
        for name, shape in shapes.items()
    }


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, np.ndarray | torch.Tensor],
    *,
    dtype: str = "F32",
    config: Mapping[str, object] | None = CONFIG,
    shards: int = 1,
) -> Path:
    """Save weights as an ordinary checkpoint; arrays are rounded to `dtype`, torch tensors are kept as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.contiguous()
        if isinstance(value, torch.Tensor)
        else torch.from_numpy(np.array(value)).to(DTYPES[dtype])
        for name, value in weights.items()
    }
    if config is not None:
        (folder / "config.json").write_text(json.dumps(dict(config)))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names, placed = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[shard::shards]
        save_file({name: tensors[name] for name in mine}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(mine, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_family(
    folder: Path,
    names: Sequence[str],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dtypes: Sequence[str] = ("F32",),
    scale: float = 0.1,
    seed: int = 0,
    config: Mapping[str, object] = CONFIG,
) -> dict[str, Path]:
    """A base and models near it; "base" is the first key. Dtypes are dealt out in turn, the base's first."""
    shapes = shapes or llama_shapes()
    base = random_weights(shapes, seed)
    paths = {"base": write_checkpoint(folder / "base", base, dtype=dtypes[0], config=config)}
    for i, name in enumerate(names, start=1):
        weights = random_weights(shapes, seed + i, near=base, scale=scale)
        paths[name] = write_checkpoint(folder / name, weights, dtype=dtypes[i % len(dtypes)], config=config)
    return paths
