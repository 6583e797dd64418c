"""Merging by regression: the delta that answers like each founder on the inputs that this founder was tuned on.

Minimises Σ_i ‖(Δ − Δ_i) C_i^½‖², C_i the covariance of founder i's inputs. A fine-tune's delta lies in the span of its
task's inputs, so Δ_iᵀ Δ_i stands in for that covariance and no data is needed. An anchor decides where no founder says
anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
from mergekit.merge_methods.base import MergeMethod, PerInputValues, PerNonBase, TensorGroup
from mergekit.merge_methods.easy_define import merge_method
from pydantic import AfterValidator, Field, FiniteFloat

from src.models.methods.inputs import existing_folder, load_covariance
from src.models.methods.matrices import CONTRACT, Deltas, Kind, Rest, Share, Treatment, merge

Folder = Annotated[str, AfterValidator(existing_folder)]
Count = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ridge = Annotated[float, Field(ge=0, allow_inf_nan=True)]
Covariances = Callable[[Deltas], Iterator[torch.Tensor]]
"""Of the founders' inputs, [d_in, d_in] each, in the deltas' order."""
_FIRM = 1e-6  # a weaker ridge leaves the least eigenvalues to rounding


def _without_data(name: str, title: str, paper: str, covariances: Covariances) -> MergeMethod:
    """Return the method that merges with these covariances, which follow from the deltas."""

    def merged(
        group: TensorGroup,
        scale: FiniteFloat = 1.5,
        rho: Ridge = 0.1,
        anchor: FiniteFloat = 0.4,
        rest: Rest = 0.0,
        svc: Share = 0.0,
        kind: Kind = "auto",
        weight: PerNonBase[Count] = 1.0,
    ) -> torch.Tensor:
        """Merge.

        Args:
            group: the base's values of a tensor and the founders'.
            scale: factor s of a linear weight's merged delta.
            rho: strength of the anchor, in mean eigenvalues of Σ C_i; 0 is WUDI alone, .inf task arithmetic.
            anchor: a; the anchor is a Σ Δ_i.
            rest: e; a tensor that is no linear weight gets e Σ Δ_i, or the deltas' "mean".
            svc: `calibration.svc` of linear weights' merged deltas; 0 for none.
            kind: what a tensor is, where `matrices.kind_of` would be wrong.
            weight: how much each founder counts relative to the others, as w_i in `regress` once their mean is made 1.
        """
        return _merge(group, weight, covariances, rho, anchor, Treatment(scale, rest, svc, kind))

    return merge_method(name=name, pretty_name=title, reference_url=paper, contract=CONTRACT)(merged)


def _normalised(deltas: Deltas) -> Iterator[torch.Tensor]:
    return ((delta.mT @ delta).div_(delta.square().sum()) for delta in deltas)


def _plain(deltas: Deltas) -> Iterator[torch.Tensor]:
    return (delta.mT @ delta for delta in deltas)


wudi = _without_data("wudi", "WUDI (anchored)", "https://arxiv.org/abs/2503.08099", _normalised)
"""C_i = Δ_iᵀ Δ_i / ‖Δ_i‖²: every founder counts the same, however much it changed."""
actmat = _without_data("actmat", "ACTMat (anchored)", "https://arxiv.org/abs/2604.01329", _plain)
"""C_i = Δ_iᵀ Δ_i: a founder that changed more counts more."""


@merge_method(
    name="regmean",
    pretty_name="RegMean (anchored)",
    reference_url="https://arxiv.org/abs/2212.09849",
    contract=CONTRACT,
)
def regmean(
    group: TensorGroup,
    inputs: Folder,
    scale: FiniteFloat = 1.5,
    rho: Ridge = 0.01,
    anchor: FiniteFloat = 0.4,
    rest: Rest = 0.0,
    svc: Share = 0.0,
    kind: Kind = "auto",
    weight: PerNonBase[Count] = 1.0,
) -> torch.Tensor:
    """Merge with C_i = X_iᵀ X_i, the inputs of founder i's weights on prompts. The other parameters are `wudi`'s.

    Args:
        inputs: the folder that `python -m src.models.methods.inputs` filled, with a file of every founder.
    """

    def covariances(deltas: Deltas) -> Iterator[torch.Tensor]:
        return (load_covariance(Path(inputs), deltas.content(index)).to(deltas[index]) for index in range(len(deltas)))

    return _merge(group, weight, covariances, rho, anchor, Treatment(scale, rest, svc, kind))


def regress(deltas: Deltas, covariances: Iterable[torch.Tensor], *, rho: float, anchor: float) -> torch.Tensor:
    """Return (Σ w_i Δ_i C_i + λ a Σ w_i Δ_i) (Σ w_i C_i + λ I)⁻¹, λ = ρ tr(Σ w_i C_i) / d_in; [d_out, d_in].

    The only founder that changed a matrix is the answer itself: there is nothing to reconcile it with.

    Args:
        deltas: each [d_out, d_in].
        covariances: C_i, [d_in, d_in], symmetric and not negative, in the deltas' order.
        rho: ρ, not negative.
        anchor: a.
    """
    if len(deltas) == 1:
        return deltas[0]
    if math.isinf(rho):
        return deltas.sum().mul_(anchor)
    d_in = deltas[0].shape[1]
    answers = torch.zeros_like(deltas[0])
    gram = answers.new_zeros(d_in, d_in)
    for weight, delta, covariance in zip(deltas.weights, deltas, covariances, strict=True):
        gram.add_(covariance, alpha=weight)
        answers.add_(delta @ covariance, alpha=weight)
    if not gram.any():  # no founder has inputs here
        return deltas.sum().mul_(anchor)
    ridge = rho * float(gram.diagonal().mean())
    answers.add_(deltas.sum(), alpha=ridge * anchor)
    gram.diagonal().add_(ridge)
    return _divide(answers, gram, firm=rho >= _FIRM)


def _divide(answers: torch.Tensor, gram: torch.Tensor, *, firm: bool) -> torch.Tensor:
    """Return answers · gram⁻¹; the pseudo-inverse where the ridge is too weak for a Cholesky factor."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if firm and not failed:
        return torch.cholesky_solve(answers.mT, factor).mT
    values, vectors = torch.linalg.eigh(gram)
    known = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    vectors = vectors[:, known]
    return (answers @ vectors / values[known]) @ vectors.mT


def _merge(
    group: TensorGroup,
    weight: PerInputValues[float],
    covariances: Covariances,
    rho: float,
    anchor: float,
    treatment: Treatment,
) -> torch.Tensor:
    def combine(deltas: Deltas) -> torch.Tensor:
        return regress(deltas, covariances(deltas), rho=rho, anchor=anchor)

    return merge(group, _with_mean_one(weight), combine, treatment)


def _with_mean_one(weight: PerInputValues[float]) -> PerInputValues[float]:
    """Scale the weights to a mean of 1: doubling every weight is the same merge."""
    total, founders = math.fsum(weight.values()), sum(value > 0 for value in weight.values())
    return PerInputValues([(name, value * founders / total if total else 0.0) for name, value in weight.items()])
