"""Checkpoints that are broken, each as a founder of a run: refused in words, before anything is evaluated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Command
from tests.family import FOUNDERS, write_family
from tests.test_mistakes import check_refused

WEIGHTS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Spoils a model by changing its tensors."""

    def spoil(model: Path) -> None:
        tensors = load_file(model / WEIGHTS)
        change(tensors)
        save_file(tensors, model / WEIGHTS)

    return spoil


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Spoils a model by changing the bytes of its file."""

    def spoil(model: Path) -> None:
        (model / WEIGHTS).write_bytes(change((model / WEIGHTS).read_bytes()))

    return spoil


def reheaded(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], None]:
    """Spoils a model by changing the header of its file."""

    def change_bytes(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return rewritten(change_bytes)


def value(number: float) -> Callable[[Path], None]:
    """Spoils a model by one weight."""
    return edited(lambda tensors: tensors[UP].view(-1).__setitem__(3, number))


def pickled(model: Path) -> None:
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()


def adapter(model: Path) -> None:
    (model / WEIGHTS).rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text("{}")


def lacking_a_shard(model: Path) -> None:
    weight_map = dict.fromkeys(load_file(model / WEIGHTS), "model-00001-of-00002.safetensors")
    weight_map[UP] = "model-00002-of-00002.safetensors"
    (model / WEIGHTS).rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def leading_out(model: Path) -> None:
    weight_map = dict.fromkeys(load_file(model / WEIGHTS), f"../../{model.name}/{WEIGHTS}")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model / WEIGHTS).rename(model / "elsewhere.safetensors")


BROKEN = {
    "truncated": (rewritten(lambda data: data[:-100]), "truncated"),
    "truncated header": (rewritten(lambda data: data[:40]), WEIGHTS),
    "empty": (rewritten(lambda data: b""), WEIGHTS),
    "zeros": (rewritten(lambda data: bytes(len(data))), WEIGHTS),
    "length beyond the file": (rewritten(lambda data: (1 << 60).to_bytes(8, "little") + data[8:]), WEIGHTS),
    "no JSON": (rewritten(lambda data: data[:8] + b"?" + data[9:]), WEIGHTS),
    "a web page": (rewritten(lambda data: b"<!doctype html><title>404</title>"), WEIGHTS),
    "offsets beyond the file": (
        reheaded(lambda h: h[UP].update(data_offsets=[1 << 40, (1 << 40) + 384])),
        "leave a hole",
    ),
    "offsets that do not fit the shape": (reheaded(lambda h: h[UP].update(shape=[12, 9])), UP),
    "negative shape": (reheaded(lambda h: h[UP].update(shape=[-12, -8])), UP),
    "unknown dtype": (reheaded(lambda h: h[UP].update(dtype="F17")), "F17"),
    "NaN": (value(float("nan")), f"blue has NaN or infinite weights, first in {UP}"),
    "Inf": (value(float("inf")), f"blue has NaN or infinite weights, first in {UP}"),
    "-Inf": (value(float("-inf")), f"blue has NaN or infinite weights, first in {UP}"),
    "missing tensor": (edited(lambda tensors: tensors.pop(UP)), f"blue lacks the tensor {UP}"),
    "extra tensor": (edited(lambda tensors: tensors.update({"extra.weight": torch.ones(3)})), "extra.weight"),
    "other shape": (
        edited(lambda tensors: tensors.update({UP: torch.ones(13, 8)})),
        f"{UP} has shape [13, 8] in blue and [12, 8] in the base",
    ),
    "pickle only": (pickled, "save_pretrained"),
    "adapter only": (adapter, "has no peft_type; supported is LORA: merge the adapter into its base first"),
    "a shard is missing": (lacking_a_shard, "model-00002-of-00002.safetensors"),
    "an index that leads out of the folder": (leading_out, "model.safetensors.index.json"),
    "no configuration": (lambda model: (model / "config.json").unlink(), "config.json"),
    "a configuration that is no JSON": (lambda model: (model / "config.json").write_text("{"), "config.json"),
    "a folder in the place of a file": (
        lambda model: ((model / WEIGHTS).unlink(), (model / WEIGHTS).mkdir()),
        WEIGHTS,
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_founder_is_refused(evolve: Command, family: Path, tmp_path: Path, fault: str) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    spoil, words = BROKEN[fault]
    spoil(copy / "blue")
    check_refused(evolve(at=copy), words)
    scored = (tmp_path / "outputs/run/samples").exists()
    assert not scored, "time was spent on evaluations before the fault was told"


@pytest.mark.parametrize("fault", ["truncated", "NaN", "missing tensor", "pickle only", "no configuration"])
def test_a_broken_base_is_refused(evolve: Command, family: Path, tmp_path: Path, fault: str) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    spoil, _ = BROKEN[fault]
    spoil(copy / "base")
    outcome = evolve(at=copy)
    check_refused(outcome, "base" if fault != "missing tensor" else UP)


def test_no_base(evolve: Command, family: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    shutil.rmtree(copy / "base")
    check_refused(evolve(at=copy), "base: no such folder")


def test_founders_of_mixed_dtypes_are_no_fault(evolve: Command, tmp_path: Path) -> None:
    family = write_family(tmp_path / "family")
    for name, dtype in zip(FOUNDERS, (torch.bfloat16, torch.float16, torch.float32, torch.float64), strict=True):
        tensors = load_file(family / name / WEIGHTS)
        save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, family / name / WEIGHTS)
    outcome = evolve("stop.generations=1", at=family)
    assert outcome.status == 0, outcome.err
    assert np.isfinite(float(outcome.out.split(" with ")[-1].split()[0]))
