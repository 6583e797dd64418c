"""Place: where a run's folder may lie, decided before anything is written there."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from src.runtime.errors import UserError

_JOURNAL = "journal.jsonl"
_WAY_ON = "choose another with outputs=… or name=…"


def check(outputs: Path, name: str, kept: Mapping[str, Path | None]) -> None:
    """Refuse a folder that cannot be made or written, and one that shares files with another run or a store.

    `kept` are folders whose content comes and goes, by the key that names them; no run may lie in one.
    """
    try:
        folder = (outputs / name).resolve()
        _check_writable(folder)
        _check_alone(folder)
        stores = {key: store.resolve() for key, store in kept.items() if store is not None}
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, links that lead in circles
        why = getattr(error, "strerror", None) or error
        raise UserError(f"outputs is {str(outputs)!r}; no run's folder can be there ({why}); {_WAY_ON}") from error
    for key, store in stores.items():
        if folder.is_relative_to(store):
            raise UserError(f"{folder} lies in {key}, whose content may be replaced at any time; {_WAY_ON}")


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        why = f"{there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = os.strerror(errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES)
    else:
        return
    raise UserError(f"{folder}: the run's folder cannot be written ({why}); {_WAY_ON}")


def _check_alone(folder: Path) -> None:
    """Refuse a folder that another run would clear."""
    for above in folder.parents:
        if (above / _JOURNAL).is_file():
            raise UserError(f"{folder} lies inside the run {above}, which may remove what is there; {_WAY_ON}")
    if not (folder / _JOURNAL).is_file() and (inside := next(folder.rglob(_JOURNAL), None)) is not None:
        raise UserError(f"{folder} is a folder of runs ({inside.parent} is one), so it can be none itself; {_WAY_ON}")
