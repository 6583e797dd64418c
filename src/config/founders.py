"""Whom to evolve: settings of the founders and of the embedded family."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from src.config.group import Group
from src.runtime import names


class Zoo(Group):
    """The embedded family."""

    seed: Annotated[int, Field(ge=0)]
    effort: Annotated[float, Field(gt=0, le=1)]
    folder: Path


class Founders(Group):
    """The base and the checkpoints that descend from it, as the user named them."""

    base: Annotated[str, Field(min_length=1)]
    models: dict[str, str]

    @field_validator("models", mode="before")
    @classmethod
    def _name_by_last_part(cls, models: Any) -> Any:
        if not isinstance(models, Sequence) or isinstance(models, str):
            return models
        last = [Path(str(model)).name.rpartition("+")[2] for model in models]  # of BASE+ADAPTER, the adapter's
        if len(set(last)) < len(last):
            raise ValueError("two of the checkpoints end in the same name; name them: {first: PATH, second: PATH}")
        return dict(zip(last, models, strict=True))

    @model_validator(mode="after")
    def _are_a_family(self) -> Founders:
        if len(self.models) < 2:
            raise ValueError(f"has {len(self.models)} model; an evolution needs at least 2 founders")
        for name, source in self.models.items():
            names.founder(name)
            if _same_place(source, self.base):
                raise ValueError(f"has the base ({source}) as founder {name!r}; the base never is one: leave it out")
        for (other, known), (name, source) in itertools.combinations(self.models.items(), 2):
            if _same_place(source, known):
                raise ValueError(f"has the same checkpoint twice, as {other!r} and {name!r} ({source}); leave one out")
        return self


def _same_place(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve())
