"""Headers of safetensors files: where each tensor lies, checked against the file."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.runtime.errors import UserError, printable
from src.runtime.files import check_regular

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}

_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit
_MOST_DIMENSIONS, _LONGEST_NAME = 32, 1000  # numpy takes no more of the first everywhere; no model has such a name


@dataclass(frozen=True)
class TensorSpec:
    """Where one tensor lies. `offset` counts from the start of `file`; `dtype` is safetensors' word for it."""

    name: str
    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorSpec]:
    """Return the tensors of a safetensors file, from its header alone; UserError where header and file disagree."""
    try:
        check_regular(file)
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8:
                raise UserError(f"{file}: truncated, {size} bytes are no safetensors file; copy or download it again")
            if length > min(size - 8, _HEADER_LIMIT):
                raise UserError(
                    f"{file}: wrong header, its length is given as {length} bytes in a file of {size}; "
                    "it is truncated or no safetensors file: copy or download it again"
                )
            raw = stream.read(length)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); check that it exists and is yours to read"
        ) from None
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: wrong header, not JSON ({error}); copy or download it again") from None
    if not isinstance(header, dict):
        raise UserError(f"{file}: wrong header, a JSON object was expected; copy or download it again")
    header.pop("__metadata__", None)
    start = 8 + length
    specs = {name: _parse_entry(file, name, entry, start) for name, entry in header.items()}
    _check_layout(file, specs, start, size)
    return specs


def read_values(spec: TensorSpec, start: int = 0, count: int | None = None) -> np.ndarray:
    """Read `count` of a float tensor's elements from `start` on, or all, as [count]: bf16 as float32, others as stored.

    Raises:
        UserError: a file that ends early, or cannot be read.
    """
    import numpy as np

    stored = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}[spec.dtype]
    count = spec.count - start if count is None else count
    try:
        values = np.fromfile(spec.file, dtype=stored, count=count, offset=spec.offset + start * ITEM_BYTES[spec.dtype])
    except OSError as error:
        raise UserError(f"{spec.file}: cannot be read ({error.strerror}); check that it is still there") from None
    if len(values) < count:
        raise UserError(f"{spec.file}: cannot be read to its end, in tensor {spec.name}; copy it again")
    return (values.astype(np.uint32) << 16).view(np.float32) if spec.dtype == "BF16" else values


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; ValueError where a key comes twice (json would silently take the last)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice")
    return result


def _parse_entry(file: Path, name: str, entry: Any, start: int) -> TensorSpec:
    """Check one header entry's dtype, shape and offsets against each other."""

    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)

    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise UserError(
            f"{file}: wrong header, the tensor {printable(name[:100])}… has a name of {len(name)} characters; "
            f"expected printable ones, at most {_LONGEST_NAME}: copy or download it again"
        )
    wrong = f"{file}: wrong header, tensor {name}"
    if not isinstance(entry, dict):
        raise UserError(f"{wrong} has no dtype, shape and data_offsets; copy or download it again")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise UserError(f"{wrong} has dtype {reprlib.repr(dtype)}; expected one of {', '.join(ITEM_BYTES)}")
    if not whole(shape) or not whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError(
            f"{wrong} has shape {reprlib.repr(shape)} and data_offsets {reprlib.repr(offsets)}; "
            "expected whole numbers, begin <= end"
        )
    if len(shape) > _MOST_DIMENSIONS:
        raise UserError(f"{wrong} has {len(shape)} dimensions; expected at most {_MOST_DIMENSIONS}")
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise UserError(
            f"{wrong} has {offsets[1] - offsets[0]} bytes by its data_offsets "
            f"and {nbytes} by its dtype and shape ({dtype} {shape_text(tuple(shape))}); copy or download it again"
        )
    return TensorSpec(name, file, start + offsets[0], nbytes, dtype, tuple(shape))


def _check_layout(file: Path, specs: Mapping[str, TensorSpec], start: int, size: int) -> None:
    """Raise UserError unless the tensors cover the file after its header, without overlap, hole or excess."""
    end, last = start, "the header"
    for spec in sorted(specs.values(), key=lambda spec: (spec.offset, spec.nbytes)):
        if spec.offset != end:
            what = "overlap" if spec.offset < end else "leave a hole"
            raise UserError(
                f"{file}: wrong header, the data_offsets of {last} and {spec.name} {what}; copy or download it again"
            )
        end, last = spec.offset + spec.nbytes, spec.name
    if end != size:
        what = "truncated" if end > size else "wrong header"
        raise UserError(f"{file}: {what}, its header speaks of {end} bytes and the file has {size}; download it again")


def shape_text(shape: tuple[int, ...]) -> str:
    """Format a shape for messages."""
    return "[" + ", ".join(map(str, shape)) + "]"
