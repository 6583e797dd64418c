"""How fast kinship is: python -m benchmarks.kinship (--help for sizes; a minute or ten).

On generated checkpoints (Llama's tensors, bf16, from the page cache, removed afterwards) it puts side by side

    engine    src.kinship.measure: every pair of n models, every metric, in one pass
    limit     preadv of the same bytes into a buffer, and nothing else
    whole     what is done today: load models with transformers, flatten their state dicts, correlate the deltas; three
              whole models for every pair, as the published tool does, and ("once") every model loaded once

Engine and limit take turns, `--repeats` times; the least of each counts, since other work on a machine only adds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.kinship import METRICS, Grams, Totals, measure
from src.kinship.measuring import processors
from src.models.checkpoint import Checkpoint, open_checkpoint

WHOLE_MOST, ONCE_MOST = 4, 8  # models up to which the side-by-side table waits for the whole-model methods


@dataclass(frozen=True)
class Timing:
    """`seconds` of wall time and `peak` bytes of memory above what was there before."""

    seconds: float
    peak: float


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="*", default=[2, 4, 8, 16], help="numbers of models to compare")
    parser.add_argument("--parameters", type=float, default=0.16e9, help="of each of them")
    parser.add_argument("--large", type=float, default=1e9, help="parameters of two more models; 0 for none")
    parser.add_argument("--many", type=float, default=0.04e9, help="parameters of 32 and of 64 models; 0 for none")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-whole", action="store_true", help="leave the whole-model method out")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)  # whole|once, base, models: one process each
    options = parser.parse_args()
    if options.alone:
        method, *folders = options.alone
        print(json.dumps((whole if method == "whole" else whole_once)([Path(folder) for folder in folders]).tolist()))
        return
    if not options.no_whole:
        import transformers.models.llama.modeling_llama  # so that nobody's first run pays for it

        transformers.utils.logging.disable_progress_bar()
    print(f"{processors()} threads; least of {options.repeats}; memory is above what was there before\n")
    columns = ["models", "parameters", "GB read", "engine s", "GB/s", "limit GB/s", "of limit", "peak MB", "error"]
    print(f"| {' | '.join([*columns, 'whole s', 'once s'])} |\n|{'---|' * 11}", flush=True)
    families = [(options.parameters, options.models)]
    families += [(options.many, [32, 64] if options.many else []), (options.large, [2] if options.large else [])]
    for parameters, sizes in families:
        if sizes:
            with tempfile.TemporaryDirectory(prefix="kinship-bench-") as folder:
                family = generate(Path(folder), max(sizes), llama(int(parameters)))
                for n in sizes:
                    print(row(family[: n + 1], options), flush=True)
                if parameters == options.parameters and not options.no_whole:
                    alone = separate(family[: min(max(sizes), ONCE_MOST) + 1])
    if not options.no_whole and options.models:
        print(f"\nOne process each, imports included\n\n{alone}")


def row(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Return one line of the table: the same family by every method."""
    base, *models = (open_checkpoint(folder) for folder in folders)
    named = {folder.name: model for folder, model in zip(folders[1:], models, strict=True)}
    nbytes = base.nbytes + sum(model.nbytes for model in models)
    limits, engines, grams = [], [], []
    for _ in range(options.repeats):
        limits.append(min(read_only([base, *models], 1 << 20), read_only([base, *models], 4 << 20)))
        engines.append(timed(lambda: grams.append(measure(base, named))))
    engine, limit = min(timing.seconds for timing in engines), min(limits)
    peak = max(timing.peak for timing in engines)
    cells = [str(len(models)), f"{base.parameters / 1e9:.2f} G", f"{nbytes / 1e9:.2f}", f"{engine:.3f}"]
    cells += [f"{nbytes / engine / 1e9:.1f}", f"{nbytes / limit / 1e9:.1f}", f"{limit / engine:.2f}"]
    cells += [f"{peak / 1e6:.0f}", f"{error(grams[-1], folders):.0e}"]
    for method, most in ((whole, WHOLE_MOST), (whole_once, ONCE_MOST)):
        wanted = base.parameters < 0.5e9 and len(models) <= most and not options.no_whole
        cells.append(f"{timed(functools.partial(method, folders)).seconds:.1f}" if wanted else "-")
    return f"| {' | '.join(cells)} |"


def separate(folders: Sequence[Path]) -> str:
    """Measure the command against the whole-model method, each in its own process, for 2 and all models."""
    lines = ["| models | method | seconds | peak MB |", "|---|---|---|---|"]
    bare = alone("src.kinship.measuring")
    lines.append(f"| - | the engine's imports | {bare.seconds:.2f} | {bare.peak / 1e6:.0f} |")
    for n in dict.fromkeys((2, len(folders) - 1)):
        some = [str(folder) for folder in folders[: n + 1]]
        commands = {
            "python -m src.kinship": ["src.kinship", *some[1:], "--base", some[0], "--json"],
            "whole, pair by pair": ["benchmarks.kinship", "--alone", "whole", *some],
            "whole, once": ["benchmarks.kinship", "--alone", "once", *some],
        }
        for label, command in commands.items():
            found = min((alone(*command) for _ in range(3 if n == 2 else 1)), key=lambda timing: timing.seconds)
            lines.append(f"| {n} | {label} | {found.seconds:.2f} | {found.peak / 1e6:.0f} |")
    return "\n".join(lines)


def alone(module: str, *arguments: str) -> Timing:
    """Return wall time and peak resident memory of `python -m module`, which notes its own peak when it ends.

    (getrusage would report this process's peak for a child of its.)
    """
    script = (
        "import atexit, pathlib, runpy, sys; _, note, module, *sys.argv[1:] = sys.argv; "
        "atexit.register(lambda: pathlib.Path(note).write_text(pathlib.Path('/proc/self/status').read_text())); "
        "runpy.run_module(module, run_name='__main__', alter_sys=True)"
    )
    with tempfile.NamedTemporaryFile(mode="r") as note:
        began = time.perf_counter()
        command = [sys.executable, "-c", script, note.name, module, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        return Timing(seconds, memory("VmHWM", Path(note.name)))


def timed(work: Callable[[], object]) -> Timing:
    """Return the wall time and the peak memory above the present of a call in this process."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return Timing(seconds, max(0, memory("VmHWM") - before))


def memory(which: str, status: Path = Path("/proc/self/status")) -> float:
    """Return the bytes of VmRSS (now) or VmHWM (peak)."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(which))
    return float(line.split()[1]) * 1024


def read_only(checkpoints: Sequence[Checkpoint], buffer: int) -> float:
    """Return the seconds to preadv every weight into one buffer a thread, doing nothing with it."""
    paths = {spec.file for checkpoint in checkpoints for spec in checkpoint.tensors.values()}
    files = {path: os.open(path, os.O_RDONLY) for path in paths}
    pieces = iter([
        (files[spec.file], at, min(buffer, spec.offset + spec.nbytes - at))
        for checkpoint in checkpoints
        for spec in checkpoint.tensors.values()
        for at in range(spec.offset, spec.offset + spec.nbytes, buffer)
    ])  # fmt: skip
    room = [memoryview(bytearray(buffer)) for _ in range(processors())]

    def work(into: memoryview) -> None:
        for file, at, count in pieces:
            os.preadv(file, [into[:count]], at)

    threads = [threading.Thread(target=work, args=(into,)) for into in room]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for file in files.values():
        os.close(file)
    return seconds


def whole(folders: Sequence[Path]) -> np.ndarray:
    """Return Pearson kinship [n, n] the way it is done today: for every pair, load the base and both models whole."""
    import torch
    from transformers import AutoModelForCausalLM

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()

    base, *models = folders
    matrix = np.eye(len(models))
    for i, j in itertools.combinations(range(len(models)), 2):
        origin, one, two = weights(base), weights(models[i]), weights(models[j])
        a = torch.cat([(one[name].float() - origin[name].float()).flatten() for name in origin])
        b = torch.cat([(two[name].float() - origin[name].float()).flatten() for name in origin])
        matrix[i, j] = matrix[j, i] = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    return matrix


def whole_once(folders: Sequence[Path]) -> np.ndarray:
    """Do the same with every model loaded once and all deltas kept: as fast as it gets where memory allows it."""
    import torch
    from transformers import AutoModelForCausalLM

    origin = AutoModelForCausalLM.from_pretrained(folders[0], dtype="auto").state_dict()
    deltas = []
    for folder in folders[1:]:
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
        delta = torch.cat([(weights[name].float() - origin[name].float()).flatten() for name in origin])
        delta -= delta.mean()
        deltas.append(delta / delta.norm())
    return np.array([[torch.dot(a, b).item() for b in deltas] for a in deltas])


def error(grams: Grams, folders: Sequence[Path]) -> float:
    """Return the largest relative error of any metric and pair against numpy in float64, read by another library."""
    from safetensors import safe_open

    rows = len(folders)
    gram, sums, count = np.zeros((rows, rows)), np.zeros(rows), 0
    opened = [safe_open(folder / "model.safetensors", framework="pt") for folder in folders]
    for name in opened[0].keys():  # noqa: SIM118 (not a dict)
        tensors = [file.get_tensor(name).flatten() for file in opened]
        for start in range(0, len(tensors[0]), 1 << 16):
            deltas = np.stack([tensor[start : start + (1 << 16)].double().numpy() for tensor in tensors])
            deltas[1:] -= deltas[0]
            gram, sums, count = gram + deltas @ deltas.T, sums + deltas.sum(axis=1), count + deltas.shape[1]
    right = Totals(gram, sums, count)
    above = np.triu_indices(rows - 1, k=1)
    return max(
        float(np.max(np.abs(metric.of(grams)[above] / metric.formula(right)[above] - 1))) for metric in METRICS.values()
    )


def generate(folder: Path, models: int, shapes: Shapes) -> list[Path]:
    """Write a base and models whose deltas have a part in common: pcc about 0.2, a tenth of the weights' size."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 23, dtype=np.float32)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": False,
    } | shapes.config
    folders = [folder / name for name in ("base", *(f"model{i}" for i in range(1, models + 1)))]
    header, at = {}, 0
    for name, shape in shapes.tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    for i, path in enumerate(folders):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        with (path / "model.safetensors").open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for tensor, (_, shape) in enumerate(shapes.tensors):
                for piece in weights(pool, tensor, i, int(np.prod(shape))):
                    file.write(piece)
    return folders


def weights(pool: np.ndarray, tensor: int, model: int, count: int) -> Iterator[bytes]:
    """Yield bf16 weights of model 0, the base, or of a model near it: noise from different places of one pool."""
    most = len(pool) // 2
    for piece, start in enumerate(range(0, count, most)):
        here = min(most, count - start)

        def noise(which: int, tensor: int = tensor, piece: int = piece, here: int = here) -> np.ndarray:
            at = int(np.random.default_rng([tensor, piece, which]).integers(len(pool) - here + 1))
            return pool[at : at + here]

        value = noise(0) * np.float32(0.02)
        if model:
            value += noise(10_000) * np.float32(0.001) + noise(model) * np.float32(0.002)
        bits = value.view(np.uint32)
        yield ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


@dataclass(frozen=True)
class Shapes:
    """Tensors of a model by name, and the configuration that goes with them."""

    tensors: list[tuple[str, list[int]]]
    config: dict[str, object]


def llama(parameters: int) -> Shapes:
    """Return a Llama of about so many parameters: 12 layers (24 of a large one), as wide as it takes."""
    layers, vocabulary = (12, 32000) if parameters < 0.5e9 else (24, 32000)
    # 4 h² of attention and 3 * 2.75 h² of MLP a layer, and two embeddings
    a, b = layers * (4 + 3 * 2.75), 2 * vocabulary
    hidden = max(64, round((-b + (b * b + 4 * a * parameters) ** 0.5) / 2 / a / 64) * 64)
    mlp = int(2.75 * hidden)
    tensors = [("model.embed_tokens.weight", [vocabulary, hidden])]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors += [(f"{at}.self_attn.{x}_proj.weight", [hidden, hidden]) for x in "qkvo"]
        tensors += [(f"{at}.mlp.{x}_proj.weight", [mlp, hidden]) for x in ("gate", "up")]
        tensors += [(f"{at}.mlp.down_proj.weight", [hidden, mlp])]
        tensors += [(f"{at}.{x}_layernorm.weight", [hidden]) for x in ("input", "post_attention")]
    tensors += [("model.norm.weight", [hidden]), ("lm_head.weight", [vocabulary, hidden])]
    config: dict[str, object] = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    config |= {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64, "vocab_size": vocabulary}
    config |= {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "dtype": "bfloat16"}
    return Shapes(tensors, config)


if __name__ == "__main__":
    main()
