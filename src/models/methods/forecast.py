"""What to say of merges by our methods before they are made: what they take, and where one is known to fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from src.models.methods import cost
from src.models.methods.matrices import is_linear_weight

if TYPE_CHECKING:
    from src.models.checkpoint import Checkpoint

GIB = 2**30
SIDE = 256
"""Rows and columns that are looked at; a part of a matrix of low rank has no more."""
FEW = 64
"""The most directions of such a part that an adapter has; full fine-tunes need more for FLAT of what they changed."""
FLAT = 0.95
MATRICES = 4
"""Of a founder's changed weights, how many are looked at."""


def forecast(
    method: str,
    base: Checkpoint,
    founders: Mapping[str, Checkpoint],
    parents: int,
    *,
    device: str,
    threads: int,
    calibrated: bool = False,
) -> list[str]:
    """Return what the plan says of merges of so many parents by this method: a line each, none of what is not ours.

    Args:
        method: mergekit's name of it, without a treatment.
        base, founders, parents: what is merged, and how many at a time.
        device, threads: that merges are computed on and with, as torch has them.
        calibrated: whether singular values are, by the method itself or by a treatment. iso_c has decomposed for that.
    """
    itemsize = max(spec.nbytes // max(1, spec.count) for spec in base.tensors.values())
    shapes = {name: spec.shape for name, spec in base.tensors.items()}
    where = f"{device}, {threads} thread{'s' * (threads != 1)}"
    lines = []
    for part in [*({method} & cost.METHODS.keys()), *(["svc"] if calibrated and method != "iso_c" else [])]:
        takes = cost.cost(part, shapes, parents, itemsize, cost.rates(device, threads))
        what = f"a merge of {parents} by {part}" if part == method else f"{part} of a merge of {parents} in addition"
        lines.append(
            f"{what}: about {duration(takes.seconds)} here ({where}), "
            f"{takes.peak / GIB:.1f} GiB at its peak in addition to the offspring"
        )
    if method == "tsv_m" and (named := [name for name, one in founders.items() if adapter_like(base, one)]):
        lines.append(
            f"warning: what {', '.join(named)} changed looks like a merged adapter (low rank), where tsv_m is known to "
            "fail (arXiv 2602.05943: below task arithmetic); merge=wudi or merge=task_arithmetic"
        )
    return lines


def adapter_like(base: Checkpoint, founder: Checkpoint) -> bool:
    """Return whether what a founder changed has the low rank of an adapter that was merged into its base.

    Looked at are SIDE rows and columns of a few of the linear weights that it changed: whether the strongest FEW
    directions hold FLAT of the change, in half of them at least. What an adapter of higher rank changed, or one whose
    changes bf16 mostly rounded away, is not distinguished from a full fine-tune; smaller weights are not looked at.
    """
    if founder.adapter is not None:
        return True
    names = [
        name
        for name, spec in base.tensors.items()
        if is_linear_weight(name, spec.shape) and min(spec.shape) >= SIDE and name in founder.tensors
    ]
    shares: list[bool] = []
    for name in names[:: max(1, len(names) // (4 * MATRICES))]:
        delta = _part(founder, name) - _part(base, name)
        if len(shares) < MATRICES and bool(delta.any()):
            energy = torch.linalg.svdvals(delta).square()
            shares.append(bool(energy[:FEW].sum() >= FLAT * energy.sum()))
    return 2 * sum(shares) >= max(1, len(shares))


def _part(model: Checkpoint, name: str) -> torch.Tensor:
    """Read SIDE evenly spaced rows and columns of a tensor, [SIDE, SIDE], in float32."""
    with safe_open(str(model.tensors[name].file), framework="pt") as file:
        rows, columns = ([index * side // SIDE for index in range(SIDE)] for side in model.tensors[name].shape)
        return file.get_tensor(name)[rows][:, columns].float()


def duration(seconds: float) -> str:
    """Return a time in words: in the largest unit of which it is at least two."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
