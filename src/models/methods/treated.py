"""Treatments of whatever a merge changed: every method of mergekit's and of the user's, once more as `treated_NAME`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import (
    BasePolicy,
    GroupMergeMethod,
    MergeMethod,
    ParameterScope,
    ParameterSpec,
    PerInputValues,
    TensorGroup,
)
from pydantic import FiniteFloat

from src.models.methods.calibration import decompose, svc
from src.models.methods.matrices import CHUNK, CONTRACT, Deltas, Share, exact, kind_of, oriented, sorted_founders
from src.runtime.names import TREATED

InnerBase = Literal["base", "first", "none"]
PARAMETERS = (
    ParameterSpec("treatment_base", InnerBase, ParameterScope.SHARED),
    ParameterSpec("treatment_scale", FiniteFloat, ParameterScope.SHARED, default=1.0),
    ParameterSpec("treatment_svc", Share, ParameterScope.SHARED, default=0.0),
)


class Treated(GroupMergeMethod):
    """Another method, and then: base + treatment_scale · svc(what it merged − base), rounded once.

    Its base_model is the ancestor that deltas are taken against. The method merges the other models and is given, by
    `treatment_base`, this ancestor as its own base ("base"), the first of the models ("first"), or no base ("none").
    The scale holds for every tensor; a list of two is a gradient from the first layer to the last, which is LiNeS.
    Calibrated (`calibration.svc`) are linear weights within layers. All other parameters are the method's.
    """

    def __init__(self, inner: MergeMethod) -> None:
        """Take the method whose merges are to be treated."""
        self.inner = inner
        own = inner.spec.parameters
        if inner.spec.contract.base == BasePolicy.IGNORED:  # all its inputs are models that are merged, never the base
            scopes = {ParameterScope.INPUT: ParameterScope.NON_BASE}
            own = tuple(replace(one, scope=scopes.get(one.scope, one.scope)) for one in own)
        self.spec = replace(
            inner.spec,
            name=TREATED + inner.spec.name,
            pretty_name=f"{inner.spec.pretty_name or inner.spec.name} (treated)",
            parameters=(*own, *PARAMETERS),
            contract=CONTRACT,
        )

    def merge_group(
        self,
        group: TensorGroup,
        /,
        *,
        treatment_base: InnerBase,
        treatment_scale: float,
        treatment_svc: float,
        **parameters: Any,
    ) -> torch.Tensor:
        """Return the treated tensor, in the inputs' shape and dtype."""
        (merged,) = self.inner((_given(group, treatment_base),), parameters=parameters)
        if treatment_svc and kind_of(group) != "rest":
            merged = calibrated(merged, group, parameters.get("weight"), treatment_svc)
        return scaled(merged, group, treatment_scale)


def register() -> None:
    """Register the treated form of every registered method that has none yet; ours treat what they merge themselves."""
    methods = registry.registered_methods()
    names = {method.spec.name for method in methods}
    for method in methods:
        treats = any(parameter.name in {"svc", "treatment_svc"} for parameter in method.spec.parameters)
        if not treats and TREATED + method.spec.name not in names:
            registry.register(Treated(method))


def scaled(merged: torch.Tensor, group: TensorGroup, scale: float) -> torch.Tensor:
    """Return base + scale · (merged − base), in the base's dtype, a chunk at a time: embeddings are large."""
    assert group.base is not None
    out = torch.empty_like(group.base.tensor)
    flat = (tensor.reshape(-1).split(CHUNK) for tensor in (out, group.base.tensor, merged))
    for target, base, other in zip(*flat, strict=True):
        target.copy_(torch.lerp(exact(base), exact(other), scale))
    return out


def calibrated(
    merged: torch.Tensor, group: TensorGroup, weight: PerInputValues[float] | None, alpha: float
) -> torch.Tensor:
    """Return a merged linear weight whose change has the singular values that its inputs bear out.

    It is [d_out, d_in] or transposed, and returned in working precision. Models that changed nothing, or have weight 0,
    do not count; alpha is that of `calibration.svc`.
    """
    assert group.base is not None
    kind = kind_of(group)
    counted = weight or PerInputValues([(entry.id, 1.0) for entry in group.non_base])
    founders = [replace(one, tensor=oriented(one.tensor, kind)) for one in sorted_founders(group, counted)]
    base = oriented(group.base.tensor, kind)
    deltas = Deltas(base, founders)
    change = exact(oriented(merged, kind)) - exact(base)
    if not deltas or not torch.isfinite(change).all():
        return exact(merged)
    return oriented(svc(decompose(change), deltas, alpha).matrix().add_(exact(base)), kind)


def _given(group: TensorGroup, base: InnerBase) -> TensorGroup:
    """Return what the inner method is given of the base and the models."""
    if base == "base":
        return group
    models = group.non_base
    return replace(group, entries=(replace(models[0], is_base=base == "first"), *models[1:]))
