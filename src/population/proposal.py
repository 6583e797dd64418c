"""A merge that a strategy proposes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from src.population.prediction import Prediction

Key = frozenset[str]
"""The parents of a merge, and its own way where it has one, as text."""


@dataclass(frozen=True)
class Proposal:
    """A model that a strategy proposes to make: its parents and, if it is not the run's merge, how they are merged.

    The better parent is written first. Most merge methods take two; some take any number.
    """

    parents: tuple[str, ...]
    exploration: bool = False
    """Chosen for being unrelated instead of for being good."""
    merge: Mapping[str, Any] | None = None
    """A merge of its own in place of the run's: `method`, `base_model` and `parameters` as in the configuration's
    `merge`, and `each`, a list of parameters for every parent in turn."""
    predicted: Prediction | None = None
    """What it promises; None where the strategy predicts nothing."""
    whole: bool = False
    """It is asked everything, where others are asked a part of the samples: what a search measures others by."""

    @property
    def key(self) -> Key:
        """What makes two proposals the same: the parents, in any order, and a merge of their own."""
        return key_of(self.parents, self.merge)

    def as_dict(self) -> dict[str, Any]:
        """Return the proposal as plain data, without what it does not have: as the journal keeps it."""
        found: dict[str, Any] = {"parents": list(self.parents), "exploration": self.exploration}
        if self.merge is not None:
            found["merge"] = dict(self.merge)
        if self.predicted is not None:
            found["predicted"] = asdict(self.predicted)
        if self.whole:
            found["whole"] = True
        return found

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Proposal:
        """Return what `as_dict` made plain data of."""
        predicted = kept.get("predicted")
        promised = Prediction(**predicted) if predicted is not None else None
        return cls(
            tuple(kept["parents"]), kept["exploration"], kept.get("merge"), promised, whole=kept.get("whole", False)
        )


def key_of(parents: Sequence[str], merge: Mapping[str, Any] | None) -> Key:
    """Return what makes two merges the same: see `Proposal.key`."""
    if merge is None:
        return frozenset(parents)
    whole = {key: value for key, value in merge.items() if key != "each"}
    each = dict(zip(parents, merge.get("each", ()), strict=False))
    return frozenset({*parents, json.dumps([whole, each], sort_keys=True)})
