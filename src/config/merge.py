"""How parents become an offspring, and how relatedness is measured: settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from src.config.group import Group
from src.runtime import plugins

METRICS = ("pcc", "cosine", "euclidean")
"""Of kinship; what they are, src.kinship.metrics says, which is too heavy to import for a configuration."""


class Kinship(Group):
    """How relatedness is measured."""

    metric: str
    """pcc, cosine, euclidean, or the dotted path of the user's own `Metric`."""

    @field_validator("metric")
    @classmethod
    def _is_known_or_dotted(cls, metric: str) -> str:
        if metric not in METRICS and not plugins.is_dotted(metric):
            raise ValueError(
                f"is {metric!r}; should be 'pcc', 'cosine' or 'euclidean', or the dotted path of a metric of your own"
            )
        return metric


class Lines(Group):
    """Layer-wise scaling (LiNeS, arXiv 2410.17146): layer l of L by α + β l / (L − 1), all outside the layers by α."""

    alpha: float = 1.0
    beta: float = 0.0


class Treatment(Group):
    """What is done to what a merge changed."""

    scale: Any = 1.0
    """A factor: a number, or as mergekit takes any parameter, with gradients over the layers and filters."""
    lines: Lines = Lines()
    svc: Annotated[float, Field(ge=0, le=1)] = 0.0
    """α of singular value calibration (arXiv 2602.05536); 0: none."""

    @model_validator(mode="after")
    def _scales_by_one_gradient(self) -> Treatment:
        if self.lines != Lines() and (isinstance(self.scale, bool) or not isinstance(self.scale, int | float)):
            raise ValueError(
                f"has lines and scale={self.scale!r}; beside lines, scale is a number: lines are the gradient "
                "scale=[alpha, alpha + beta]"
            )
        return self

    @property
    def factor(self) -> Any:
        """What deltas are multiplied by, in mergekit's words."""
        if self.lines == Lines():
            return self.scale
        return [self.scale * self.lines.alpha, self.scale * (self.lines.alpha + self.lines.beta)]


class Merge(Group):
    """How parents become an offspring, in mergekit's words."""

    method: Annotated[str, Field(min_length=1)]
    base_model: Literal["parent", "ancestor"] | None
    parameters: dict[str, Any]
    each: dict[str, Any]
    dtype: Literal["float32", "float16", "bfloat16"] | None
    tokenizer_source: str | None
    treatment: Treatment | None = None
    """Of what any method of mergekit's changed; None where it would leave that as it is."""

    @field_validator("treatment")
    @classmethod
    def _does_something(cls, treatment: Treatment | None) -> Treatment | None:
        return None if treatment == Treatment() else treatment

    @property
    def takes_ancestor(self) -> bool:
        """Whether the founders' base is an input of every merge."""
        return self.base_model == "ancestor" or self.treatment is not None
