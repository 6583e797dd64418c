"""Singular value calibration: directions that several founders share are counted once, not once a founder."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from src.models.methods.matrices import Deltas


def decompose(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U [d_out, r], S [r] and Vᵀ [r, d_in] of a matrix [d_out, d_in] of numerical rank r.

    Directions that rounding invented are left out: their vectors are arbitrary.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    largest = s[:1] if len(s) else s
    rank = int((s > largest * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vt[:rank]


def svc(merged: torch.Tensor, deltas: Deltas | Collection[torch.Tensor], alpha: float) -> torch.Tensor:
    """Return a merged delta with the singular values that its founders bear out (SVC, arXiv 2602.05536).

    With merged = U Σ Vᵀ and the deltas Δ_1 … Δ_K, direction r answers a_i = u_rᵀ Δ_i in founder i and a = σ_r v_rᵀ in
    the merged delta; s_i = ⟨a, a_i⟩ / ‖a_i‖² says how far the others inflate what founder i does there, and σ_r becomes
    σ_r · K / Σ_i max(α, s_i). A founder that does nothing in a direction counts as s_i = 0. The formula is that of the
    paper and of its authors' code (github.com/lyymuwu/SVC).

    Args:
        merged: [d_out, d_in], before any scaling (a factor would be calibrated away).
        deltas: the founders', each [d_out, d_in].
        alpha: 1 only ever damps; less lets weak directions grow by up to 1/alpha. The paper: 1/K, and 1 for TSV-M.
    """
    u, s, vt = decompose(merged)
    answer = s[:, None] * vt
    inflation = torch.zeros_like(s)
    for delta in deltas:
        own = u.mT @ delta
        size = own.square().sum(1)
        share = torch.where(size > 0, (answer * own).sum(1) / size, torch.zeros_like(size))
        inflation.add_(share.clamp(min=alpha))
    return (u * (s * len(deltas) / inflation)) @ vt
