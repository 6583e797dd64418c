"""How fast the kinship of LoRA adapters is, from their factors: python -m benchmarks.adapters (--help; two minutes).

On a generated base (Llama's tensors, bf16) and generated adapters of all its linear weights, all removed afterwards:

    factors    src.kinship.measure without the base's row, as `python -m src.kinship` asks for it: factors alone
    with base  the same with the base's row, as a run asks for it: the base is read once
    dense      the way without factors: whole weights of every adapter written to disk, and one pass over all of them

The error is the largest of any pair's cosine against dense deltas in float64, made a tensor at a time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.kinship import generate, llama
from src.kinship import kinship_matrix, measure
from src.models import merging
from src.models.checkpoint import Checkpoint, open_checkpoint


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2, help="adapters")
    parser.add_argument("--parameters", type=float, default=1e9, help="of the base")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-bench-") as temporary:
        folder = Path(temporary)
        (at,) = generate(folder, 0, llama(int(options.parameters)))
        base = open_checkpoint(at)
        models = {}
        for seed in range(options.models):
            models[f"lora{seed}"] = open_checkpoint(
                adapter(folder / f"lora{seed}", base, options.rank, seed), base=base
            )
        alone = least(options.repeats, lambda: measure(base, models, with_base=False))
        row = least(options.repeats, lambda: measure(base, models))
        found = kinship_matrix(measure(base, models, with_base=False), "cosine")
        off = float(np.abs(found - dense(models)).max())
        began = time.perf_counter()
        whole = {name: written(model, folder / f"{name}-whole") for name, model in models.items()}
        writing = time.perf_counter() - began
        reading = least(options.repeats, lambda: measure(base, whole))
        rounded = float(np.abs(found - kinship_matrix(measure(base, whole), "cosine")).max())
    print(f"{base.parameters / 1e9:.2f} G parameters, {options.models} adapters of rank {options.rank}\n")
    print("| | seconds | on disk |\n| --- | ---: | ---: |")
    print(f"| factors | {alone:.3f} | |\n| with base | {row:.2f} | |")
    print(f"| dense: writing | {writing:.2f} | {options.models * base.nbytes / 1e9:.1f} GB |")
    print(f"| dense: measuring | {reading:.2f} | |")
    print(f"\ncosine off by {off:.0e} against dense deltas; rounding to bf16 moves it by {rounded:.0e}")


def least(repeats: int, work: Callable[[], object]) -> float:
    """Return the least seconds of some repeats."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def adapter(folder: Path, base: Checkpoint, rank: int, seed: int) -> Path:
    """Write factors for every linear weight within the base's layers; a third of each A is common to all."""
    folder.mkdir()
    common, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    tensors: dict[str, torch.Tensor] = {}
    for name, spec in base.tensors.items():
        if ".layers." in name and len(spec.shape) == 2:
            rows, columns = spec.shape
            key = f"base_model.model.{name.removesuffix('.weight')}"
            a = own.standard_normal((rank, columns), dtype=np.float32)
            b = own.standard_normal((rows, rank), dtype=np.float32)
            a[: rank // 3] = common.standard_normal((rank // 3, columns), dtype=np.float32)
            b[:, : rank // 3] = common.standard_normal((rows, rank // 3), dtype=np.float32)
            tensors |= {
                f"{key}.lora_A.weight": torch.from_numpy(a * 0.02),
                f"{key}.lora_B.weight": torch.from_numpy(b * 0.02),
            }
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "base_model_name_or_path": base.source}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def dense(models: dict[str, Checkpoint]) -> np.ndarray:
    """Return the cosines [n, n] of dense deltas, in float64."""
    found = [model.adapter for model in models.values() if model.adapter is not None]
    stored = [load_file(one.folder / "adapter_model.safetensors") for one in found]
    gram = np.zeros((len(found), len(found)))
    for name in found[0].factors:
        deltas = []
        for one, tensors in zip(found, stored, strict=True):
            factors = one.factors[name]
            product = tensors[factors.b.name].double() @ tensors[factors.a.name].double()
            deltas.append(factors.scaling * product.flatten())
        stack = torch.stack(deltas)
        gram += (stack @ stack.T).numpy()
    lengths = np.sqrt(np.diagonal(gram))
    return gram / np.outer(lengths, lengths)


def written(model: Checkpoint, folder: Path) -> Checkpoint:
    """Return a checkpoint of an adapter's whole weights."""
    assert model.adapter is not None
    folder.mkdir()
    merging.write(model.adapter.weights(), folder)
    (folder / "config.json").write_bytes((model.config_folder / "config.json").read_bytes())
    return open_checkpoint(folder)


if __name__ == "__main__":
    main()
