"""Inner products of adapters, from their factors: no delta of theirs is ever made.

A LoRA's delta is D = s B A with B [out, r] and A [r, in], so that ⟨D1, D2⟩ = s1 s2 tr(A1ᵀ B1ᵀ B2 A2), the sum over the
elements of (B1ᵀ B2) ∘ (A1 A2ᵀ), which are r × r. Against a tensor X that has no factors, ⟨D, X⟩ is the sum over the
elements of (s Bᵀ X) ∘ A, which reads X once, whatever the number of adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from src.models.adapters import Factors
from src.models.checkpoint import Checkpoint, Compared
from src.models.header import ITEM_BYTES, TensorSpec, read_values

_BLOCK = 1 << 21
"""Elements of a tensor that are multiplied at a time. Within a block of 16-bit weights sums are float32."""
Pair = tuple[np.ndarray, np.ndarray]
"""Left [rows, r] and right [r, columns], float64: their product is what an adapter adds to a stored weight."""


def add(
    gram: np.ndarray, sums: np.ndarray, checkpoints: Sequence[Checkpoint], tensors: Sequence[Compared], first: int
) -> None:
    """Fill in the rows and columns of adapters.

    Args:
        gram: float64 [T, rows, rows], zero where an adapter meets anybody.
        sums: float64 [T, rows], zero for adapters.
        checkpoints: of the rows, the base first.
        tensors: that are compared.
        first: pairs of rows before it may be left out.
    """
    for index, tensor in enumerate(tensors):
        found = {row: one.adapter.factors.get(tensor.name) for row, one in enumerate(checkpoints) if one.adapter}
        pairs = {row: _pair(factors, tensor) for row, factors in found.items() if factors is not None}
        _among(gram[index], sums[index], pairs)
        whole = {row: one.tensors[tensor.name] for row, one in enumerate(checkpoints) if not one.adapter}
        _against(gram[index], pairs, whole, tensor, first)


def _pair(factors: Factors, tensor: Compared) -> Pair:
    a, b = (read_values(spec).astype(np.float64).reshape(spec.shape) for spec in (factors.a, factors.b))
    left, right = (a.T, b.T) if factors.transposed else (b, a)
    return factors.scaling * left[: tensor.shape[0]], right


def _among(gram: np.ndarray, sums: np.ndarray, pairs: Mapping[int, Pair]) -> None:
    """Fill in the products of adapters with each other, gram [rows, rows], and their sums [rows]."""
    for i, (left, right) in pairs.items():
        sums[i] = left.sum(axis=0) @ right.sum(axis=1)
        for j, (other_left, other_right) in pairs.items():
            if j <= i:
                gram[i, j] = gram[j, i] = np.sum((left.T @ other_left) * (right @ other_right.T))


def _against(
    gram: np.ndarray, pairs: Mapping[int, Pair], whole: Mapping[int, TensorSpec], tensor: Compared, first: int
) -> None:
    """Fill in the products of adapters with what has no factors: the base's weights, and deltas of whole models."""
    asked = {row: some for row in whole if (some := [one for one in pairs if max(row, one) >= first])}
    if not asked:
        return
    columns = tensor.shape[1]
    step = max(1, _BLOCK // columns)
    coarse = all(ITEM_BYTES[spec.dtype] == 2 for spec in whole.values())
    dtype = np.float32 if coarse else np.float64
    lefts = {row: np.hstack([pairs[one][0] for one in some]).astype(dtype) for row, some in asked.items()}
    products = {row: np.zeros((left.shape[1], columns)) for row, left in lefts.items()}
    for start in range(0, tensor.shape[0], step):
        count = min(step, tensor.shape[0] - start)
        base = _rows(whole[0], start, count, columns, dtype)
        for row, left in lefts.items():
            block = base if row == 0 else _rows(whole[row], start, count, columns, dtype) - base
            products[row] += left[start : start + count].T @ block
    for row, some in asked.items():
        rest = products[row]
        for one in some:
            right = pairs[one][1]
            gram[one, row] = gram[row, one] = np.sum(rest[: len(right)] * right)
            rest = rest[len(right) :]


def _rows(spec: TensorSpec, start: int, count: int, columns: int, dtype: type) -> np.ndarray:
    return read_values(spec, start * columns, count * columns).astype(dtype, copy=False).reshape(count, columns)
