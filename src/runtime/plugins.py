"""Objects of the user's own, outside the project, named by their dotted path in the configuration."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, TypeVar

from src.runtime.errors import UserError, printable

Kind = TypeVar("Kind")

_trusted: set[str] = set()
"""What may be imported: what the user has named, and not what a journal names that may come from anybody."""


def trust(*paths: str | None) -> None:
    """Allow what these names lead to, if they are dotted paths, to be imported and thereby executed."""
    _trusted.update(path for path in paths if path is not None and is_dotted(path))


def is_dotted(name: str) -> bool:
    """Return whether a name is a dotted path, `package.module.NAME`, instead of the name of something built in."""
    return "." in name


def load(path: str, kind: type[Kind]) -> Kind:
    """Return the object at a dotted path, which is an instance of `kind`.

    Its module is imported, from the current folder too, and thereby executed.

    Raises:
        UserError: it cannot be imported, there is no such name in it, or it is something else.
    """
    found = imported(path)
    if not isinstance(found, kind):
        raise UserError(f"{path} is a {type(found).__name__}; expected a {kind.__name__} (docs/extending.md)")
    return found


def load_class(path: str, base: Any) -> Any:
    """Return the class at a dotted path, which is a subclass of `base`; imports and raises as `load`."""
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{path} is no subclass of {base.__name__} (docs/extending.md)")
    return found


def imported(path: str) -> Any:
    """Return whatever a dotted path names; imports and raises as `load`."""
    if path not in _trusted:
        raise UserError(
            f"{path} is named by the run, and importing it would execute its code; if you trust it: --trust {path}"
        )
    module, _, name = path.rpartition(".")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's own module raises while it is imported
        why = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        raise UserError(
            f"{path} could not be imported ({why}); expected package.module.NAME, to be found from this folder or in "
            "PYTHONPATH"
        ) from error
