"""What a merge by one of our methods takes, before it is made: from the tensors' shapes and the machine's speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from src.models.methods.matrices import digest, is_linear_weight, working_dtype

_SIDES = {"cpu": (768, 768)}
"""Of the matrices that a device multiplies and decomposes to show its speed: a GPU is busy with larger ones only."""
_LARGER = (4096, 1024)
_SPREAD = 1 << 22
_MOVED = 1 << 27
_HASHED = 1 << 25


@dataclass(frozen=True)
class Rates:
    """How fast a device is, in the precision of the merges."""

    multiply: float
    """Multiplications and additions a second within a product of matrices."""
    decompose: float
    """d_out · d_in · min(d_out, d_in) a second within a singular value decomposition."""
    move: float
    """Values a second that a bf16 tensor is widened and subtracted at."""
    to: float = math.inf
    """Bytes a second from the process's memory to the device."""
    back: float = math.inf
    """Bytes a second from the device to new memory of the process."""
    digest: float = math.inf
    """Bytes a second that a tensor on the device is hashed at."""


@dataclass(frozen=True)
class Cost:
    """The cost of one merge."""

    seconds: float
    """Of computing, of hashing founders' tensors, and of moving weights to the device and back; reading and writing
    files is not included."""
    peak: int
    """Bytes held at once in addition to the offspring, a tensor at a time."""


def cost(method: str, shapes: Mapping[str, Sequence[int]], founders: int, itemsize: int, rates: Rates) -> Cost:
    """Return what one merge takes.

    Args:
        method: wudi, actmat, tsv_m or iso_c, without calibration; or "svc", what calibration takes in addition.
        shapes: of every tensor, by name.
        founders: how many are merged.
        itemsize: bytes of a stored value; those of 16 bits are merged as float32.
        rates: of the device.

    Raises:
        KeyError: another method.
    """
    seconds, peak = 0.0, 0
    for name, shape in shapes.items():
        values = math.prod(shape)
        wide = max(4, itemsize)
        held = (founders + 2) * values * wide
        if is_linear_weight(name, shape):
            spent, own = METHODS[method](shape[0], shape[1], founders, rates)
            held += own
        else:
            spent = founders * values / rates.move
        seconds += spent
        if method != "svc":  # it works on what is there
            seconds += values * itemsize * ((founders + 1) / rates.to + 1 / rates.back)
            seconds += founders * values * wide / rates.digest
        peak = max(peak, held)
    return Cost(seconds, peak)


@cache
def rates(device: str, threads: int) -> Rates:
    """Return a device's speed, measured once in a fraction of a second with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        short = torch.ones(_SPREAD, dtype=torch.bfloat16, device=device)
        precision = working_dtype(short)
        generator = torch.Generator().manual_seed(0)
        multiplied, decomposed = _SIDES.get(device, _LARGER)
        square = torch.randn(multiplied, multiplied, generator=generator, dtype=torch.float32).to(device, precision)
        corner = square[:decomposed, :decomposed].contiguous()
        hashed = torch.zeros(_HASHED, dtype=torch.uint8, device=device)
        to, back = (math.inf, math.inf) if device == "cpu" else _transfers(device)
        return Rates(
            multiply=2 * multiplied**3 / _least(lambda: square @ square, device),
            decompose=decomposed**3 / _least(lambda: torch.linalg.svd(corner, full_matrices=False), device),
            move=_SPREAD / _least(lambda: short.to(precision).sub_(short), device),
            to=to,
            back=back,
            digest=_HASHED / _least(lambda: digest(hashed), device),
        )
    finally:
        torch.set_num_threads(before)


def _transfers(device: str) -> tuple[float, float]:
    """Return bytes a second from memory to a device, and back to new memory as `private.merged_tensors` does it."""
    own = torch.ones(_MOVED, dtype=torch.uint8)
    there = own.to(device)
    back = _least(lambda: torch.empty(_MOVED, dtype=torch.uint8).fill_(0).copy_(there), device)
    return _MOVED / _least(lambda: there.copy_(own), device), _MOVED / back


def _regression(rows: int, columns: int, founders: int, rates: Rates) -> tuple[float, int]:
    """Count n products Δᵀ Δ and Δ C each, one Cholesky factor and one solve with it."""
    products = founders * 4 * rows * columns**2 + 2 * rows * columns**2
    factor = columns**3 / 3
    spent = (products + 2 * factor) / rates.multiply + 4 * founders * rows * columns / rates.move
    return spent, 8 * (4 * rows * columns + 3 * columns**2)


def _tsv_m(rows: int, columns: int, founders: int, rates: Rates) -> tuple[float, int]:
    """Count n decompositions, two of their factors concatenated, and the products back."""
    least = min(rows, columns)
    work = (founders + 1) * rows * columns * least + least**3
    spent = work / rates.decompose + 4 * rows * columns * least / rates.multiply
    return spent + 3 * founders * rows * columns / rates.move, 8 * (
        (founders + 4) * (rows + columns) * least + 2 * rows * columns
    )


def _iso_c(rows: int, columns: int, founders: int, rates: Rates) -> tuple[float, int]:
    """Count one decomposition of the sum, and the products back."""
    least = min(rows, columns)
    spent = rows * columns * least * (1 / rates.decompose + 2 / rates.multiply)
    return spent + 3 * founders * rows * columns / rates.move, 8 * (3 * (rows + columns) * least + 3 * rows * columns)


def _svc(rows: int, columns: int, founders: int, rates: Rates) -> tuple[float, int]:
    """Count one decomposition of what was merged, a product with every founder, and the products back."""
    least = min(rows, columns)
    spent = rows * columns * least * (1 / rates.decompose + 2 * (founders + 1) / rates.multiply)
    return spent + 4 * founders * rows * columns / rates.move, 8 * (4 * (rows + columns) * least + 3 * rows * columns)


METHODS: dict[str, Callable[[int, int, int, Rates], tuple[float, int]]] = {
    "wudi": _regression,
    "actmat": _regression,
    "tsv_m": _tsv_m,
    "iso_c": _iso_c,
    "svc": _svc,
}
"""Time and memory of one matrix [d_out, d_in] of so many founders, by the method."""


def _least(work: Callable[[], object], device: str) -> float:
    """Return the least of three times, in seconds, after a warm-up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
