"""Digest: what tells one model's content from another's, wherever it lies and however it is sharded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

from src.models.header import TensorSpec
from src.runtime import checksums
from src.runtime.errors import UserError
from src.runtime.files import check_regular

TEMPLATES = "additional_chat_templates"
"""Folder within a checkpoint's of the templates that have names, as transformers has it."""
_DTYPES = {  # torch's word for it, and safetensors'
    **{"torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"},
    **{"torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8"},
    **{"torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2"},
}
_OTHER_FILES = ("*.json", "*.model", "*.tiktoken", "*.jinja", "merges.txt", "vocab.txt", f"{TEMPLATES}/*.jinja")


def of_files(specs: Iterable[TensorSpec], config: Mapping[str, Any], *, most: int | None = None) -> str:
    """Return the xxh3_128 hex digest of tensors on disk, sorted by name, and of the model's configuration.

    Every byte counts, or at most `most` bytes from the middle of each tensor; UserError where a file ends early.
    """
    specs = list(specs)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        digests = pool.map(lambda spec: _of_tensor(spec, most), specs)
        whole = xxhash.xxh3_128(_described(config))
        for spec, digest in zip(specs, digests, strict=True):
            whole.update(json.dumps([spec.name, spec.dtype, spec.shape]).encode())
            whole.update(digest)
    return whole.hexdigest()


def of_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return what `of_files` would if these torch tensors and this configuration were on disk."""
    import torch

    whole = xxhash.xxh3_128(_described(config))
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, _DTYPES[str(tensor.dtype)], list(tensor.shape)]).encode())
        raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy() if tensor.numel() else b""
        whole.update(xxhash.xxh3_128_digest(raw))
    return whole.hexdigest()


def of_surroundings(folder: Path) -> str:
    """Return the sha256 hex digest of a checkpoint's files other than weights: tokenizer, configuration, templates.

    Two that share it can swap weights; two that do not may score differently with the same weights. What is called like
    one of these files and cannot be read (a folder, a link that leads nowhere) raises UserError.
    """
    digest = hashlib.sha256()
    for file in (file for pattern in _OTHER_FILES for file in sorted(folder.glob(pattern))):
        if file.name.endswith(".index.json"):
            continue
        try:
            check_regular(file)
            digest.update(os.fsencode(file.name) + b"\0" + file.read_bytes())
        except OSError as error:
            raise UserError(
                f"{file}: cannot be read ({error.strerror}), and lies beside the weights; "
                "copy or download it again, or remove it"
            ) from None
    return digest.hexdigest()


def _described(config: Mapping[str, Any]) -> bytes:
    # A saved configuration may remember the folder that it was loaded from.
    return json.dumps({key: value for key, value in config.items() if key != "_name_or_path"}, sort_keys=True).encode()


def _of_tensor(spec: TensorSpec, most: int | None) -> bytes:
    count = min(spec.nbytes, most or spec.nbytes)
    try:
        return checksums.of_range(spec.file, spec.offset + (spec.nbytes - count) // 2, count)
    except EOFError:
        raise UserError(f"{spec.file}: truncated while it was read, in tensor {spec.name}; download it again") from None
