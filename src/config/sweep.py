"""A search over configurations, and a run's place in one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from src.config.group import Group

Objective = Literal["best", "evaluations", "samples", "hours"]

DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "best": "maximize",
    "evaluations": "minimize",
    "samples": "minimize",
    "hours": "minimize",
}
"""Of each objective; `best` is the best average, the others are what a run has cost."""


class Parameter(Group):
    """One key of the configuration that trials differ in: some choices, or a range."""

    key: Annotated[str, Field(min_length=1)]
    name: str | None = None
    """In the study; None: the key. A key that has other choices under other conditions needs a name for each."""
    when: dict[str, list[Any]] = Field(default_factory=dict)
    """Other keys and what they must be for this one to mean anything; empty: it always does."""
    choices: list[bool | int | float | str | None] | None = None
    low: int | float | None = None
    high: int | float | None = None
    """Included. Whole numbers where both bounds are."""
    step: int | float | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Parameter:
        bounds = self.low is not None and self.high is not None
        if bool(self.choices) == bounds:
            raise ValueError(f"({self.key}) needs either choices, or low and high")
        return self


class Prune(Group):
    """When a trial is hopeless: its best average is among the worst at the same generation."""

    keep: Annotated[float, Field(gt=0, lt=100)]
    """Percent of the trials, the best ones, that may go on after a generation."""
    startup: Annotated[int, Field(ge=1)]
    """Trials that must have come to their end, past the generation in question, before any is cut short."""
    warmup: Annotated[int, Field(ge=0)]
    """Generations that every trial is given."""


class Trial(Group):
    """Which trial of which study a run is; written by the sweep, never by hand."""

    number: Annotated[int, Field(ge=0)]
    study: str
    storage: str


class Sweep(Group):
    """A search over configurations, or a run's place in one."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}$")]
    """Its name, which becomes a folder."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    prune: Prune | None
    space: tuple[Parameter, ...]
    trial: Trial | None = None

    @model_validator(mode="after")
    def _prunes_by_one_figure(self) -> Sweep:
        if self.prune is not None and self.objectives != ("best",):
            raise ValueError("has prune and other objectives than best; trials are cut short by that alone: prune=null")
        return self
