"""Provenance: when, by what command and with which code a run was begun or gone on with."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from src.runtime.grid import CHANNEL
from src.runtime.secrets import masked_command

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where this is one."""
FROM_PYTHON = "kinmerge"
"""Hydra's name of a job that a program began, not a command."""
PATIENCE = 10
"""Seconds that git has to answer."""


@dataclass(frozen=True)
class Provenance:
    """Where a start of a run comes from."""

    date: str
    """ISO 8601, UTC, to the second."""
    command: str
    """As typed, secrets masked; of one of many runs, as it could be typed for it alone."""
    kinmerge: str | None
    """Version of this package; None where it was not installed."""
    commit: str | None
    """Of the checkout; None where the code lies in none."""
    dirty: bool | None
    """Whether tracked files of the checkout differed from that commit."""
    python: str
    platform: str
    """Operating system and processor."""
    gpu: str | None
    """What the vendor calls it; None on a CPU."""


def collect(device: str) -> Provenance:
    """Return the provenance of what this process does on a device, as torch names it."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    commit, dirty = checkout(ROOT)
    system = platform.python_version(), platform.platform()
    own = gpu = None
    with suppress(PackageNotFoundError):
        own = version("kinmerge")
    if device.startswith("cuda"):
        import torch

        gpu = str(torch.cuda.get_device_name(device))
    return Provenance(now, command(), own, commit, dirty, *system, gpu)


def described(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a start, as the journal has it, as names and texts; what is not known is left out.

    Args:
        about: `versions` of libraries and `provenance`, the fields above.
    """
    found = about.get("provenance", {})
    changed = {True: ", with changes that were not committed", False: "", None: ""}[found.get("dirty")]
    libraries = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    rows = {
        "date": found.get("date"),
        "command": found.get("command"),
        "kinmerge": found.get("kinmerge"),
        "commit": f"{found['commit']}{changed}" if found.get("commit") else None,
        "Python": found.get("python"),
        "libraries": libraries,
        "machine": ", ".join(filter(None, (found.get("platform"), found.get("gpu")))),
    }
    return [(name, text) for name, text in rows.items() if text]


def command() -> str:
    """Return the command that began this, secrets masked; the equal one where it was begun from Python."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith(CHANNEL)]
    program = ["python", "-m", "src.run"]
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is not None and (hydra.mode == RunMode.MULTIRUN or hydra.job.name == FROM_PYTHON):
        arguments = list(hydra.overrides.task)
    elif Path(sys.argv[0]).name not in {"run.py", "src.run"}:
        program = [Path(sys.argv[0]).name or "python"]
    return shlex.join([*program, *masked_command(arguments)])


def checkout(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a checkout and whether tracked files differ from it; None, None where git knows of none."""
    if not (root / ".git").exists():  # what is installed may lie within a checkout of something else
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return (commit, None if changes is None else bool(changes)) if commit else (None, None)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        git = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        found = subprocess.run(git, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
