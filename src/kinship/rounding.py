"""Rounding: how far founders are from their base, in steps of the 16 bits that offspring are written in.

Weights of 16 bits lie on a grid. A fine-tune that moved most of its weights by a single step of it, or not at all, has
offspring between the steps: each of their weights is rounded by about as much as training had moved it, and how related
such an offspring is to others depends on the rounding as much as on the merge, which no inner product shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.models.checkpoint import Checkpoint, compared
from src.models.header import ITEM_BYTES, TensorSpec, read_values

GRIDS = {"BF16": "bfloat16", "F16": "float16"}
"""The dtypes whose steps are counted, as headers and as mergekit name them."""
SAMPLE = 1 << 20
"""Bytes of each tensor that are looked at, from its middle."""


@dataclass(frozen=True)
class Moved:
    """How far a founder's weights are from the base's, as far as they were looked at."""

    looked_at: int
    """Weights."""
    changed: int
    """Of these, how many are not on the base's step."""
    one_step: int
    """Of the changed ones, how many are on the very next step."""


def moved(
    base: Checkpoint, models: Mapping[str, Checkpoint], *, dtype: str | None = None, sample: int = SAMPLE
) -> dict[str, Moved]:
    """Count the steps between the base and each of the models, on a sample: the middle of every tensor.

    Memory is a few samples, whatever the size and number of the models.

    Args:
        base, models: of one family (see `check_family`).
        dtype: that offspring are written in, as mergekit names it; None for each tensor's own. Weights of more bits
            are rounded to it first.
        sample: bytes of each of the base's tensors.

    Returns:
        Of each model that has tensors on such a grid; the others, of float32 say, are left out, and so are adapters.
    """
    models = {name: model for name, model in models.items() if model.adapter is None}
    counts = {name: np.zeros(3, dtype=np.int64) for name in models}
    for tensor in compared(base, models):
        spec = base.tensors[tensor.name]
        count = min(tensor.count, max(1, sample // ITEM_BYTES[spec.dtype]))
        start = (tensor.count - count) // 2
        mine = _read(spec, start, count)
        for name, model in models.items():
            theirs = model.tensors[tensor.name]
            grid = dtype or GRIDS.get(theirs.dtype)
            if grid is not None and grid in GRIDS.values():
                steps = np.abs(_step(mine, grid) - _step(_read(theirs, start, count), grid))
                counts[name] += np.array([count, np.count_nonzero(steps), np.count_nonzero(steps == 1)])
    return {name: Moved(*map(int, found)) for name, found in counts.items() if found[0]}


def _read(spec: TensorSpec, start: int, count: int) -> np.ndarray:
    """Read `count` of a tensor's elements from `start` on, as float32 [count]."""
    return read_values(spec, start, count).astype(np.float32, copy=False)


def _step(values: np.ndarray, grid: str) -> np.ndarray:
    """Return the number of the step that each value is rounded to, int32 [n]; 0 for zero, negative below it."""
    if grid == "float16":
        with np.errstate(over="ignore"):
            bits = values.astype(np.float16).view(np.uint16).astype(np.int32)
    else:
        wide = values.view(np.uint32).astype(np.int64)
        bits = (wide + 0x7FFF + (wide >> 16 & 1) >> 16).astype(np.int32)  # to the nearest, ties to even
    return np.where(bits & 0x8000, -(bits & 0x7FFF), bits)
