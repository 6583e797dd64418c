"""What of a tensor is a matrix, what founders changed in it, and the way from there to a merged tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
import xxhash
from mergekit.common import ModelReference
from mergekit.merge_methods.base import BasePolicy, InputContract, PerInputValues, TensorGroup
from pydantic import Field, FiniteFloat

from src.models.methods.calibration import Factors, decompose, svc
from src.models.private import trusts_remote_code

Kind = Literal["auto", "linear", "transposed", "rest"]
Rest = FiniteFloat | Literal["mean"]
Share = Annotated[float, Field(ge=0, le=1)]
CONTRACT = InputContract(base=BasePolicy.REQUIRED, min_non_base=1)

_IN_A_LAYER = re.compile(r"(?:^|\.)\d+\.")  # as mergekit finds layers in a model that it has no table for
_NO_MAP = re.compile(r"norm|^ln_|embed|^wte$|^wpe$|relative_attention_bias")
_CONV1D = frozenset({"c_attn", "q_attn", "c_proj", "c_fc", "c_fc2"})  # transformers.pytorch_utils.Conv1D, [d_in, d_out]
_CONV1D_MODELS = frozenset({"gpt2", "jais", "openai-gpt", "imagegpt", "decision_transformer"})
CHUNK = 1 << 22
_STAGE = 1 << 25


@dataclass(frozen=True)
class Founder:
    """One founder's values of a tensor."""

    tensor: torch.Tensor
    weight: float
    key: str
    """A digest of the values: it orders founders, whatever they are called and in whatever order they come."""


class Deltas(Sequence[torch.Tensor]):
    """What each founder changed in one matrix, [d_out, d_in]; computed when asked for, in working precision.

    Founders that changed nothing are left out: they have nothing to say about this matrix.
    """

    def __init__(self, base: torch.Tensor, founders: Sequence[Founder]) -> None:
        """Take the base's matrix and the founders', all [d_out, d_in], of one dtype and on one device."""
        self._base = base
        self._moved = [founder for founder in founders if not torch.equal(founder.tensor, base)]
        self.weights = [founder.weight for founder in self._moved]
        self.device = base.device

    def __len__(self) -> int:
        return len(self._moved)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        return exact(self._moved[index].tensor) - exact(self._base)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def sum(self) -> torch.Tensor:
        """Return the weighted sum of the deltas, [d_out, d_in]."""
        total = torch.zeros(self._base.shape, dtype=working_dtype(self._base), device=self._base.device)
        for weight, delta in zip(self.weights, self, strict=True):
            total.add_(delta, alpha=weight)
        return total

    @cached_property
    def finite(self) -> bool:
        """Whether every value of the base and of the founders is."""
        return all(bool(torch.isfinite(t).all()) for t in (self._base, *(f.tensor for f in self._moved)))

    def key(self, index: int) -> str:
        """Return what the arrays computed from this delta alone depend on: its content, and what computes."""
        content = f"{self._base_digest}-{digest(self._moved[index].tensor)}"
        return f"{content}-{self._base.device.type}-{torch.get_num_threads()}-{torch.__version__}"

    def content(self, index: int) -> str:
        """Return a digest of this founder's matrix as float32, whatever it is stored as."""
        return digest(self._moved[index].tensor.float())

    @cached_property
    def _base_digest(self) -> str:
        return digest(self._base)


Combine = Callable[[Deltas], torch.Tensor | Factors]


@dataclass(frozen=True)
class Treatment:
    """What happens to a merged delta, whichever method merged it."""

    scale: float
    """Factor of the merged delta of a linear weight."""
    rest: Rest
    """Factor of the sum of the deltas of every other tensor; "mean" for their weighted mean."""
    svc: float
    """Calibration of the merged delta's singular values before it is scaled (`calibration.svc`); 0 for none."""
    kind: Kind
    """What this tensor is; "auto" for what `kind_of` says."""


def merge(group: TensorGroup, weight: PerInputValues[float], combine: Combine, treatment: Treatment) -> torch.Tensor:
    """Return the merged tensor, in the inputs' shape and dtype, rounded once.

    Args:
        group: the base's values and the founders'.
        weight: of every founder; one of weight 0 is as if it were absent.
        combine: from the deltas of one matrix [d_out, d_in] to a merged delta; never called for none.
        treatment: what happens to the merged delta, and to tensors that are no linear weight.
    """
    assert group.base is not None  # the methods' contract
    base = group.base.tensor
    founders = sorted_founders(group, weight)
    if base.numel() == 0 or not founders:
        return base.clone()
    kind = kind_of(group) if treatment.kind == "auto" else treatment.kind
    if kind == "rest" or base.ndim < 2:
        return _sum(base, founders, treatment.rest)
    matrices = [tensor.reshape(-1, *base.shape[-2:]) for tensor in (base, *(f.tensor for f in founders))]
    merged = torch.empty_like(matrices[0])
    for index, (own, *theirs) in enumerate(zip(*(oriented(stack, kind) for stack in matrices), strict=True)):
        deltas = Deltas(own, [replace(f, tensor=values) for f, values in zip(founders, theirs, strict=True)])
        merged[index] = oriented(_merge_matrix(own, deltas, combine, treatment), kind)
    return merged.reshape(base.shape)


def _merge_matrix(own: torch.Tensor, deltas: Deltas, combine: Combine, treatment: Treatment) -> torch.Tensor:
    """Return the merged matrix, [d_out, d_in], in working precision."""
    if not deltas:
        return exact(own)
    if not deltas.finite:
        return torch.full_like(own, torch.nan)
    merged = combine(deltas)
    if treatment.svc:
        factors = merged if isinstance(merged, Factors) else decompose(merged)
        merged = svc(factors, deltas, treatment.svc)
    delta = merged.matrix() if isinstance(merged, Factors) else merged
    return delta.mul(treatment.scale).add_(exact(own))


def kind_of(group: TensorGroup) -> Kind:
    """Return what a tensor is, from what mergekit says of it: its name, its vocabulary axis, the models' types.

    "linear": [d_out, d_in] within a layer. "transposed": the same as [d_in, d_out] (GPT-2's Conv1D). "rest": all else.
    """
    assert group.base is not None
    name, tensor = group.metadata.name, group.base.tensor
    if tensor.ndim != 2 or group.metadata.vocabulary_axis is not None:
        return "rest"
    if name is None:
        return "linear"
    if not is_linear_weight(name, tensor.shape):
        return "rest"
    if name.split(".")[-2] not in _CONV1D or not isinstance(model := group.base.id, ModelReference):
        return "linear"  # as are those of no model on disk
    kind = model.config(trust_remote_code=trusts_remote_code()).model_type
    return "transposed" if kind in _CONV1D_MODELS else "linear"


def is_linear_weight(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor of this name and shape is a linear weight within a layer, as far as these tell."""
    *modules, leaf = name.split(".")
    inner = leaf == "weight" and bool(modules) and not _NO_MAP.search(modules[-1].lower())
    return inner and len(shape) == 2 and bool(_IN_A_LAYER.search(name))


def sorted_founders(group: TensorGroup, weight: PerInputValues[float]) -> list[Founder]:
    """Return the founders that count, in an order that depends on their values alone."""
    counted = [entry for entry in group.non_base if weight[entry.id] != 0]
    founders = [
        Founder(entry.tensor, weight[entry.id], digest(entry.tensor) if len(counted) > 1 else "") for entry in counted
    ]
    return sorted(founders, key=lambda founder: (founder.key, founder.weight))


def digest(tensor: torch.Tensor) -> str:
    """Return the xxh3_128 of a tensor's dtype, shape and bytes; of one on an accelerator, a copy is hashed."""
    whole = xxhash.xxh3_128(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.numel():
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        if raw.device.type == "cpu":
            whole.update(raw.numpy().data)
        else:  # through a little pinned memory, which is copied to faster than new pages
            stage = torch.empty(min(len(raw), _STAGE), dtype=torch.uint8, pin_memory=raw.device.type == "cuda")
            for part in raw.split(_STAGE):
                whole.update(stage[: len(part)].copy_(part).numpy().data)
    return whole.hexdigest()


def working_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64, or float32 on a device that has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in the dtype of the arithmetic."""
    return tensor.to(working_dtype(tensor))


def oriented(matrices: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Return matrices as [d_out, d_in], or from there as they are stored."""
    return matrices.mT if kind == "transposed" else matrices


def _sum(base: torch.Tensor, founders: Sequence[Founder], rest: Rest) -> torch.Tensor:
    """Add a factor times the sum of the deltas to the base, a chunk at a time: embeddings are large."""
    moved = [founder for founder in founders if not torch.equal(founder.tensor, base)]
    if not moved:
        return base.clone()
    total = sum(founder.weight for founder in moved)
    factor = rest if rest != "mean" else 1 / total if total else 1.0
    flat = [founder.tensor.reshape(-1) for founder in moved]
    merged = base.reshape(-1).clone()
    for start in range(0, base.numel(), CHUNK):
        chunk = slice(start, start + CHUNK)
        own = exact(merged[chunk])
        delta = torch.zeros_like(own)
        for founder, values in zip(moved, flat, strict=True):
            delta.add_(exact(values[chunk]) - own, alpha=founder.weight)
        merged[chunk] = delta.mul_(factor).add_(own).to(base.dtype)
    return merged.reshape(base.shape)
