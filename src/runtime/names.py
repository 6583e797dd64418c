"""Names of runs, founders and offspring. They become files and folders, so nothing else may ever be one.

And the beginning of the names of treated merge methods, which kinship reads and models write.
"""

from __future__ import annotations

import re

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}")
OFFSPRING_NAME = re.compile(r"[0-9]{1,9}-([0-9]{1,9}|exp)")
BASE = "base"
TREATED = "treated_"
_WEIGHTS = re.compile(rf"{OFFSPRING_NAME.pattern}|\.{OFFSPRING_NAME.pattern}\..+")


def founder(name: str) -> str:
    """Return the name; ValueError where a founder cannot have it."""
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(f"has the name {name!r}; names are letters, digits and ._- (they become folders)")
    if OFFSPRING_NAME.fullmatch(name) or name == BASE:
        raise ValueError(f"has the name {name!r}, which the run itself uses; name that founder otherwise")
    return name


def offspring(name: str) -> str:
    """Return the name; ValueError where a run gives no offspring such a name."""
    if not OFFSPRING_NAME.fullmatch(name):
        raise ValueError(f"has the name {name!r}; expected GENERATION-NUMBER or GENERATION-exp")
    return name


def of_weights(entry: str) -> bool:
    """Return whether a run calls a folder of weights so: an offspring's, or one on its way to become or cease to be."""
    return _WEIGHTS.fullmatch(entry) is not None
