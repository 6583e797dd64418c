"""Merging by singular vectors and values."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mergekit.merge_methods.base import PerNonBase, TensorGroup
from mergekit.merge_methods.easy_define import merge_method
from pydantic import FiniteFloat
from safetensors.torch import load, save

from src.models.methods.calibration import Factors, decompose
from src.models.methods.matrices import CONTRACT, Deltas, Kind, Rest, Share, Treatment, merge
from src.runtime.cache import Cache

WORTH_KEEPING = 256
"""Rows or columns of a matrix, whichever are fewer, from which on its factors are read faster than computed."""

_cache = Cache(None)


@contextmanager
def factors_kept_in(cache: Cache) -> Iterator[None]:
    """Have merges within the block remember founders' factors there; mergekit passes nothing on to merge methods."""
    global _cache
    before, _cache = _cache, cache
    try:
        yield
    finally:
        _cache = before


@merge_method(
    name="tsv_m", pretty_name="TSV-Merge", reference_url="https://arxiv.org/abs/2412.00081", contract=CONTRACT
)
def tsv_m(
    group: TensorGroup,
    scale: FiniteFloat = 1.0,
    rest: Rest = "mean",
    svc: Share = 0.0,
    kind: Kind = "auto",
    weight: PerNonBase[FiniteFloat] = 1.0,
) -> torch.Tensor:
    """Merge the strongest singular directions of every founder, pulled apart until they are orthogonal.

    Args:
        group: the base's values of a tensor and the founders'.
        scale: factor α of a linear weight's merged delta.
        rest: a tensor that is no linear weight gets this times Σ w_i Δ_i, or the deltas' "mean" (as in the paper).
        svc: `calibration.svc` of linear weights' merged deltas; 0 for none, 1 in that paper.
        kind: what a tensor is, where `matrices.kind_of` would be wrong.
        weight: of each founder's delta.
    """
    return merge(group, weight, orthogonalised, Treatment(scale, rest, svc, kind))


@merge_method(name="iso_c", pretty_name="Iso-C", reference_url="https://arxiv.org/abs/2502.04959", contract=CONTRACT)
def iso_c(
    group: TensorGroup,
    scale: FiniteFloat = 1.0,
    beta: Share = 1.0,
    rest: Rest = "mean",
    svc: Share = 0.0,
    kind: Kind = "auto",
    weight: PerNonBase[FiniteFloat] = 1.0,
) -> torch.Tensor:
    """Merge by the sum of the deltas with its singular values made equal. The other parameters are `tsv_m`'s.

    Args:
        beta: how equal: 0 leaves the sum (task arithmetic), 1 makes all singular values their mean (Iso-C).
    """
    return merge(group, weight, functools.partial(equalised, beta=beta), Treatment(scale, rest, svc, kind))


def orthogonalised(deltas: Deltas) -> torch.Tensor:
    """Return U⊥ S V⊥ᵀ, [d_out, d_in], of the founders' strongest triplets (TSV-M).

    Each of n founders gives the first ⌊min(d_out, d_in) / n⌋ triplets of its delta, at least one, as far as its rank
    goes. U [d_out, r] and V [d_in, r], all founders' side by side, are replaced by the nearest matrices with
    orthonormal columns: P Qᵀ of U = P D Qᵀ. Directions that U does not have (two founders that share some) stay out of
    P Qᵀ, where the authors' code fills in arbitrary ones. The only founder that changed a matrix is given back.
    """
    if len(deltas) == 1:
        return deltas.sum()
    most = max(1, min(deltas[0].shape) // len(deltas))
    taken = [[part[..., :most] for part in _factors(deltas, index)] for index in range(len(deltas))]
    u, v = (_nearest_orthonormal(torch.cat([founder[i] for founder in taken], dim=1)) for i in (0, 2))
    s = torch.cat([founder[1] * weight for founder, weight in zip(taken, deltas.weights, strict=True)])
    return (u * s) @ v.mT


def equalised(deltas: Deltas, *, beta: float) -> torch.Tensor | Factors:
    """Return the deltas' weighted sum, [d_out, d_in], with singular values S made S^(1−β), of the same total as S.

    β = 1 is Iso-C: all of them the mean. The partial form is ours: no publication of it was found. Directions that the
    sum does not have stay out, while the authors' code gives arbitrary ones the mean too. The only founder that changed
    a matrix is given back.
    """
    total = deltas.sum()
    if len(deltas) == 1 or beta == 0:
        return total
    u, s, vt = decompose(total)
    levelled = s ** (1 - beta)
    return Factors(u, levelled * (s.sum() / levelled.sum()), vt)


def _factors(deltas: Deltas, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the first triplets of one founder's delta, U [d_out, r], S [r] and V [d_in, r], from the cache if there.

    r is half of the smaller dimension: no merge takes more of each of two founders, let alone of several.
    """
    delta = deltas[index]
    most, worth = max(1, min(delta.shape) // 2), min(delta.shape) >= WORTH_KEEPING
    key = f"svd-{deltas.key(index)}"
    known = _cache.factors(key, load) if worth else None
    if known is None:
        u, s, vt = decompose(delta)
        known = made = {"u": u[:, :most].contiguous(), "s": s[:most].contiguous(), "v": vt[:most].mT.contiguous()}
        if worth:
            _cache.keep_factors(key, lambda: save({name: array.cpu() for name, array in made.items()}))
    u, s, v = (known[name].to(deltas.device) for name in ("u", "s", "v"))
    return u, s, v


def _nearest_orthonormal(columns: torch.Tensor) -> torch.Tensor:
    p, _, qt = decompose(columns)
    return p @ qt
