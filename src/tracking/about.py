"""What a tracker is told of a run before its first figure: names, tags and configuration, from the journal alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.journal import Event, replay
from src.strategy.stop import SATURATION

MIXED = ("stop.kinship", "strategy.explore.kinship", "evaluate.holdout", "evaluate.batch_size")
"""Settings that are a number in some runs and a word or a list in others."""
OPEN = ("merge.parameters.", "merge.each.")
"""And those that may be, whatever they are called."""
SIMILARITIES = ("pcc", "cosine")
_TRIAL = re.compile(r"sweeps/(.+)/(\d+)")
_LONGEST_TAG = 64


@dataclass(frozen=True)
class About:
    """A run, for a tracker."""

    id: str
    """The same for the same run, wherever its folder lies."""
    name: str
    job_type: str
    """trial (of a study) or evolution."""
    tags: Sequence[str]
    config: Mapping[str, Any]
    """Nested: settings, versions, commit and command; a key has numbers or words, the same in every run."""


def about(events: Sequence[Event], folder: Path) -> About:
    """Return what the events say of their run.

    Args:
        events: of its journal.
        folder: of the run, by which those of older versions are told apart: their first line has no date.

    Raises:
        UserError: they are no run's.
    """
    state = replay(events)
    started = state.started or {}
    settings = started["settings"]
    start = state.starts[0] if state.starts else {}
    identity = json.dumps(events[0], sort_keys=True) if "provenance" in events[0] else str(folder)
    trial = _TRIAL.fullmatch(settings["name"])
    code = {"versions": started.get("versions", {}), "start": start.get("provenance", {})}
    config = unmixed({**settings, **code, **({"sweep": {"study": trial[1], "trial": int(trial[2])}} if trial else {})})
    if settings["stop"]["kinship"] == "auto" and settings["kinship"]["metric"] in SIMILARITIES:
        config["stop"]["kinship"] = SATURATION  # what the word comes to
    tags = dict.fromkeys([settings["strategy"]["name"], settings["merge"]["method"], settings["kinship"]["metric"]])
    return About(
        hashlib.sha256(identity.encode()).hexdigest()[:16],
        settings["name"],
        "trial" if trial else "evolution",
        [tag[:_LONGEST_TAG] for tag in tags],
        config,
    )


def unmixed(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested settings each of which has numbers or words, and without what is null or empty.

    What is a number in some runs keeps its key for numbers; words go under KEY_text. Lists are words.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        where, name = f"{path}{key}", str(key).replace(".", "_")  # dots are W&B's own, between levels
        if isinstance(value, Mapping):
            if inner := unmixed(value, f"{where}."):
                found[name] = inner
        elif isinstance(value, bool | int | float):
            found[name] = value
        elif value is not None and value != []:
            found[f"{name}_text" if where in MIXED or where.startswith(OPEN) else name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, Mapping) and "name" in one for one in value):
        return ", ".join(str(one["name"]) for one in value)
    return json.dumps(value)
