"""Singular value calibration: directions that several founders share are counted once, not once a founder."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch


class Factors(NamedTuple):
    """A matrix [d_out, d_in] of numerical rank r as U diag(S) Vᵀ."""

    u: torch.Tensor
    """[d_out, r]"""
    s: torch.Tensor
    """[r]"""
    vt: torch.Tensor
    """[r, d_in]"""

    def matrix(self) -> torch.Tensor:
        """Return the matrix, [d_out, d_in]."""
        return (self.u * self.s) @ self.vt


def decompose(matrix: torch.Tensor) -> Factors:
    """Return the singular value decomposition of a matrix [d_out, d_in], as far as its numerical rank goes.

    Directions that rounding invented are left out: their vectors are arbitrary.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[:1] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return Factors(u[:, :rank], s[:rank], vt[:rank])


def svc(merged: Factors, deltas: Collection[torch.Tensor], alpha: float) -> Factors:
    """Return a merged delta with the singular values that its founders bear out (SVC, arXiv 2602.05536).

    With merged = U Σ Vᵀ and the deltas Δ_1 … Δ_K, direction r answers a_i = u_rᵀ Δ_i in founder i and a = σ_r v_rᵀ in
    the merged delta; s_i = ⟨a, a_i⟩ / ‖a_i‖² says how far the others inflate what founder i does there, and σ_r becomes
    σ_r · K / Σ_i max(α, s_i). A founder that does nothing in a direction counts as s_i = 0. The formula is that of
    summaries of the paper and of code that follows its equations 17 to 23 and the authors' (github.com/lyymuwu/SVC).

    Args:
        merged: before any scaling (a factor would be calibrated away). Where singular values are equal, U is what
            decides: give the factors that the method has, not those of another decomposition.
        deltas: the founders', each [d_out, d_in].
        alpha: 1 only ever damps; less lets weak directions grow by up to 1/alpha. The paper: 1/K, and 1 for TSV-M.
    """
    answer = merged.s[:, None] * merged.vt
    inflation = torch.zeros_like(merged.s)
    for delta in deltas:
        own = merged.u.mT @ delta
        size = own.square().sum(1)
        share = torch.where(size > 0, (answer * own).sum(1) / size, torch.zeros_like(size))
        inflation.add_(share.clamp(min=alpha))
    return merged._replace(s=merged.s * len(deltas) / inflation)
