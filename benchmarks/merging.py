"""What merges take: python -m benchmarks.merging (--help for sizes; some minutes).

On a generated family of SmolLM2-135M's shape (bf16, three founders; removed afterwards) it puts side by side, each in a
process of its own,

    ours        wudi, actmat, tsv_m, iso_c, and what `src.models.methods.cost` had said of them
    mergekit's  slerp (of two), task_arithmetic, ties

and says what the same model expects of a Llama of 7 B here. Other work on the machine spoils every figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kinship import Shapes, generate

if TYPE_CHECKING:
    from src.models.merging import Recipe

OWN = ("wudi", "actmat", "tsv_m", "iso_c")
THEIRS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.5},
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 1.0, "density": 0.5},
}
GIB = 2**30


def main() -> None:
    """Generate, merge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30, help="of the small family")
    parser.add_argument("--founders", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="*", default=[*THEIRS, *OWN])
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)  # a method, the family's folder: in this process
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(options.alone[0], Path(options.alone[1]), options)))
        return
    from src.models.methods import cost

    small, large = smollm2(options.layers), llama2()
    speed = cost.rates(options.device, options.threads)
    print(f"{options.founders} founders, {options.threads} threads, {options.device}; memory: allocated at most\n")
    print("| method | seconds | expected to compute | GiB | expected | 7 B, expected: seconds | GiB |")
    print(f"| --- |{' ---: |' * 6}", flush=True)
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as folder:
        generate(Path(folder), options.founders, small)
        for method in options.methods:
            found = separate(method, folder, options)
            line = f"| {method} | {found['seconds']:.1f} |"
            if method not in OWN:
                print(f"{line} | {found['peak'] / GIB:.2f} | | | |", flush=True)
                continue
            here, there = (
                cost.cost(method, dict(shapes.tensors), options.founders, 2, speed) for shapes in (small, large)
            )
            line += f" {here.seconds:.1f} | {found['peak'] / GIB:.2f} | {(here.peak + found['held']) / GIB:.2f} |"
            print(f"{line} {there.seconds:,.0f} | {there.peak / GIB:.1f} |", flush=True)


def separate(method: str, folder: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what one merge took in a process of its own."""
    own = [f"--{key}={getattr(options, key)}" for key in ("founders", "threads", "device")]
    command = [sys.executable, "-m", "benchmarks.merging", "--alone", method, folder, *own]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def alone(method: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return seconds of a merge in memory, bytes allocated at most, and those that any merge holds."""
    from src.models import merging

    recipe = recipe_of(method, options.founders, options.threads, stored="BF16")  # as in runs: float32, rounded once
    models = {name: folder / name for name in recipe.models}
    before = allocated()
    with most_allocated() as most:
        start = time.perf_counter()
        tensors = merging.merge_in_memory(recipe, models, Path(tempfile.mkdtemp(dir=folder)), device=options.device)
        seconds = time.perf_counter() - start
    assert tensors is not None
    offspring = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {"seconds": seconds, "peak": max(most), "held": before + offspring}


def recipe_of(method: str, founders: int, threads: int, stored: str | None = None) -> Recipe:
    """Return how `model1`, `model2`, … are merged by a method, with its usual parameters; of slerp, two."""
    from src.config import Merge
    from src.models import merging

    given = {} if method in OWN else THEIRS[method]
    settings = Merge(
        method=method,
        base_model="parent" if method == "slerp" else "ancestor",
        parameters={key: value for key, value in given.items() if key == "t"},
        each={key: value for key, value in given.items() if key != "t"},
        dtype=None,
        tokenizer_source=None,
    )
    names = [f"model{i}" for i in range(1, 1 + (2 if method == "slerp" else founders))]
    return merging.recipe(settings, names, seed=0, threads=threads, stored=stored)


@contextmanager
def most_allocated() -> Iterator[list[int]]:
    """Sample what this process has allocated a hundred times a second within the block."""
    seen, over = [allocated()], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            seen.append(allocated())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def allocated() -> int:
    """Return the bytes in memory that are no file's: pages of mapped checkpoints can be dropped at any time."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def smollm2(layers: int) -> Shapes:
    """Return the tensors of SmolLM2-135M: 30 layers of three key-value heads, and embeddings tied to the head."""
    return llama(hidden=576, mlp=1536, heads=9, groups=3, layers=layers, vocabulary=49152, tied=True)


def llama2(layers: int = 32) -> Shapes:
    """Return Llama 2 7B's tensors."""
    return llama(hidden=4096, mlp=11008, heads=32, groups=32, layers=layers, vocabulary=32000, tied=False)


def llama(*, hidden: int, mlp: int, heads: int, groups: int, layers: int, vocabulary: int, tied: bool) -> Shapes:
    """Return the tensors of a Llama of these sizes; `groups` is the number of its key-value heads."""
    narrow = hidden * groups // heads
    tensors = [("model.embed_tokens.weight", [vocabulary, hidden])]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors += [(f"{at}.self_attn.{x}_proj.weight", [hidden, hidden]) for x in "qo"]
        tensors += [(f"{at}.self_attn.{x}_proj.weight", [narrow, hidden]) for x in "kv"]
        tensors += [(f"{at}.mlp.{x}_proj.weight", [mlp, hidden]) for x in ("gate", "up")]
        tensors += [(f"{at}.mlp.down_proj.weight", [hidden, mlp])]
        tensors += [(f"{at}.{x}_layernorm.weight", [hidden]) for x in ("input", "post_attention")]
    tensors += [("model.norm.weight", [hidden])] + ([] if tied else [("lm_head.weight", [vocabulary, hidden])])
    config: dict[str, object] = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary}
    config |= {"tie_word_embeddings": tied, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5}
    config |= {"hidden_act": "silu", "dtype": "bfloat16"}
    return Shapes(tensors, config)


if __name__ == "__main__":
    main()
