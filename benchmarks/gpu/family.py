"""Random families of models of a given shape, a tokenizer for them, and a task that lm-eval can ask them."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from benchmarks.gpu.place import bytes_of, processors
from benchmarks.kinship import Shapes

WORDS = 1000
SHARD = 1 << 29
"""Bytes of a file at most, while there are no more of them than processors: writers of one file wait for each other."""
_STAGE = 1 << 25
TASK = "random_choice"
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
  cache_dir: {cache}
test_split: test
output_type: multiple_choice
num_fewshot: 0
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


@dataclass(frozen=True)
class Family:
    """A base and models near it, on disk."""

    folders: tuple[Path, ...]
    """The base's first."""
    seconds: float
    """That making and writing it took."""
    nbytes: int
    """Of all together."""

    @property
    def models(self) -> dict[str, Path]:
        """The founders by name."""
        return {folder.name: folder for folder in self.folders[1:]}


def at(folder: Path) -> Family:
    """Return the family that `generate` wrote into a folder before."""
    folders = (folder / "base", *sorted(path for path in folder.iterdir() if path.name.startswith("model")))
    return Family(
        folders, math.nan, sum(file.stat().st_size for path in folders for file in path.glob("*.safetensors"))
    )


def generate(folder: Path, shapes: Shapes, founders: int, device: str, *, files: int | None = None) -> Family:
    """Write a base and founders in bf16, drawn on the device; what founders changed has a part in common.

    Every processor writes a file of each model at a time.

    Args:
        folder: becomes the family's.
        shapes: of a model.
        founders: how many.
        device: that they are drawn on.
        files: of a model; None: one of SHARD bytes for each processor, or more bytes.
    """
    began = time.perf_counter()
    folders = tuple(folder / name for name in ("base", *(f"model{i}" for i in range(1, founders + 1))))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shapes.config}
    config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shards = _shards(shapes, files or max(1, min(processors(), bytes_of(shapes) // SHARD)))
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    index = {name: file for file, shard in zip(names, shards, strict=True) for _, name, _ in shard}
    described = {"metadata": {"total_size": bytes_of(shapes)}, "weight_map": index}
    for path in folders:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        (path / "model.safetensors.index.json").write_text(json.dumps(described))
        _tokenizer().save_pretrained(str(path))
    with ThreadPoolExecutor(processors()) as pool:
        list(
            pool.map(lambda name, shard: _write_shard([path / name for path in folders], shard, device), names, shards)
        )
    return Family(folders, time.perf_counter() - began, len(folders) * bytes_of(shapes))


Part = Sequence[tuple[int, str, list[int]]]
"""Number, name and shape of the tensors of one file."""


def _shards(shapes: Shapes, files: int) -> list[Part]:
    """Return which tensors lie in which file, in their order; there may be fewer files, none is empty."""
    most = bytes_of(shapes) / files
    shards: list[list[tuple[int, str, list[int]]]] = []
    done = 0
    for number, (name, shape) in enumerate(shapes.tensors):
        if done >= most * len(shards):
            shards.append([])
        shards[-1].append((number, name, shape))
        done += 2 * math.prod(shape)
    return list(shards)


def _write_shard(paths: Sequence[Path], shard: Part, device: str) -> None:
    """Write one file of every model."""
    header, end = {}, 0
    for _, name, shape in shard:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stage = torch.empty(_STAGE, dtype=torch.bfloat16, pin_memory=device != "cpu")
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb", buffering=0)) for path in paths]
        for file in files:
            file.write(len(text).to_bytes(8, "little") + text)
        for number, name, shape in shard:
            for file, tensor in zip(files, _tensors(name, shape, number, len(paths) - 1, device), strict=True):
                for part in tensor.flatten().split(_STAGE):
                    _write(file, stage[: len(part)].copy_(part))


def _tensors(name: str, shape: list[int], number: int, founders: int, device: str) -> list[torch.Tensor]:
    """Return one tensor of every model, in bf16 and on the device."""
    random = torch.Generator(device).manual_seed(number)

    def noise(size: float) -> torch.Tensor:
        return torch.randn(shape, generator=random, device=device).mul_(size)

    base = noise(0.02).add_(1.0 if "norm" in name else 0.0)
    common = noise(0.001)
    return [own.bfloat16() for own in (base, *(noise(0.002).add_(common).add_(base) for _ in range(founders)))]


def _write(file: object, tensor: torch.Tensor) -> None:
    view = memoryview(tensor.view(torch.uint8).numpy().data).cast("B")
    while len(view):
        view = view[file.write(view) :]  # type: ignore[attr-defined]


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token a word."""
    words = {word: index for index, word in enumerate([*_SPECIAL, *(f"w{i}" for i in range(WORDS))])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", words["<s>"])])
    pad, bos, eos, unknown = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unknown, model_max_length=2048
    )


def write_task(folder: Path, samples: int, words: int) -> Path:
    """Write a multiple-choice task of random words into a new folder, and return it: evaluate.include."""
    folder.mkdir(parents=True)
    drawn = random.Random(0)
    file = folder / f"{TASK}.jsonl"
    with file.open("w") as lines:
        for _ in range(samples):
            question = " ".join(f"w{drawn.randrange(WORDS)}" for _ in range(words))
            choices = [f"w{word}" for word in drawn.sample(range(WORDS), 4)]
            lines.write(json.dumps({"question": question, "choices": choices, "label": drawn.randrange(4)}) + "\n")
    (folder / f"{TASK}.yaml").write_text(_TASK.format(task=TASK, file=file.resolve(), cache=folder.resolve() / "cache"))
    return folder
