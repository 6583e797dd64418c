"""Grids: `-m strategy.k=2,3` is two runs of one configuration, and each is named by what it differs in.

    outputs/zoo-kinship_topk-strategy.k=2
    outputs/zoo-kinship_topk-strategy.k=3

A name that has the key already (`name=mine-${strategy.k}`, and those of conf/experiment) stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

CHANNEL = "hydra.job.config.override_dirname.exclude_keys="
"""Hydra's own list of keys that a run's name is not made of, which reaches a job wherever it runs."""
LONGEST = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")


def constants(overrides: Sequence[str]) -> str:
    """Return the override that tells every job which keys the command line gives one value, so that none differs in it.

    Overrides that cannot be read are Hydra's to complain of.
    """
    try:
        swept = {one.key_or_group: one.is_sweep_override() for one in _parsed(overrides)}  # the last of a key counts
    except HydraException:
        swept = {}
    return f"{CHANNEL}[{','.join(repr(key) for key, is_swept in swept.items() if not is_swept)}]"


def name_apart(composed: DictConfig) -> None:
    """Give a run that is one of a grid a name of its own, and the grid's runs a group; leave any other as it is.

    Hydra's note of the whole command, multirun.yaml, is removed: every run has its own in its journal, without secrets.
    """
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN or (composed.get("sweep") or {}).get("trial") is not None:
        return
    (Path(job.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
    template = str(OmegaConf.to_container(composed, resolve=False)["name"])  # type: ignore[call-overload, index]
    constant = {*job.job.config.override_dirname.exclude_keys, "name"}
    params = _parsed(f"{key}={value}" for key, value in (job.sweeper.get("params") or {}).items())
    constant |= {one.key_or_group for one in params if not one.is_sweep_override()}
    differing = [one for one in _parsed(job.overrides.task) if one.key_or_group not in constant]
    unnamed = [one for one in differing if not _has(template, one.key_or_group)]
    base = composed.name
    composed.name = with_overrides(base, [f"{one.key_or_group}={one.get_value_element_as_str()}" for one in unnamed])
    if composed.track.group is None:
        composed.track.group = base


def with_overrides(name: str, overrides: Sequence[str]) -> str:
    """Return a name with these overrides in it, as far as a file's name can have them: others give way to a digest."""
    if not overrides:
        return name
    whole = ",".join(overrides)
    folder, slash, last = name.rpartition("/")
    room = LONGEST - len(last) - 1
    safe = _UNSAFE.sub("-", whole).strip("-")
    if safe != whole or len(safe) > room:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
        safe = f"{safe[: max(room - 7, 0)]}-{digest}"
    return f"{folder}{slash}{last}-{safe}"


def _has(template: str, key: str) -> bool:
    return any(f"{before}{key}}}" in template for before in ("${", "${hydra:runtime.choices."))


def _parsed(overrides: Iterable[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))
