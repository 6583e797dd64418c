"""LoRA adapters of the pico family, written as PEFT writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.checkpoints import DTYPES

MODULES = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (8, 8), "mlp.down_proj": (8, 12)}
"""[out, in] of what an adapter changes in every layer."""


def write_adapter(
    folder: Path,
    base: Path,
    seed: int,
    *,
    rank: int = 2,
    dtype: str = "F32",
    scale: float = 0.5,
    embeddings: int = 0,
    **config: Any,
) -> Path:
    """An adapter_config.json and its factors, random; with `embeddings`, of that many tokens' too."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors: dict[str, torch.Tensor] = {}
    ranks: Mapping[str, int] = config.get("rank_pattern", {})

    def factor(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape) * scale).to(DTYPES[dtype])

    for layer in range(2):
        for module, (rows, columns) in MODULES.items():
            own = ranks.get(module.rpartition(".")[2], rank)
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors |= {f"{key}.lora_A.weight": factor(own, columns), f"{key}.lora_B.weight": factor(rows, own)}
    targets = [module.rpartition(".")[2] for module in MODULES]
    if embeddings:
        key = "base_model.model.model.embed_tokens"
        tensors |= {f"{key}.lora_embedding_A": factor(rank, embeddings), f"{key}.lora_embedding_B": factor(8, rank)}
        targets.append("embed_tokens")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank}
    about |= {"lora_alpha": 4, "target_modules": targets, "bias": "none", "use_dora": False, **config}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder
