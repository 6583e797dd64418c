"""kinmerge in Python: `kinmerge.evolve(strategy="kinship_topk")`, `kinmerge.Run("outputs/NAME").to_pandas()`.

This folder is what is installed as the package `kinmerge` (pyproject.toml), with `src` and `conf` in it in a wheel. The
code imports itself as `src`, which is found by its place, whatever else has that name.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.runtime.errors import FruitlessError, MachineError, UserError

    from .api import Run, evolve, plan

__all__ = ["FruitlessError", "MachineError", "Run", "UserError", "evolve", "plan"]

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "src/__init__.py").is_file())
"""Where `src` and `conf` lie: the checkout, or the installed package."""

sys.path.insert(0, str(ROOT))
try:
    _found = import_module("src").__file__
finally:
    sys.path.remove(str(ROOT))
if _found is None or not (ROOT / "src/__init__.py").samefile(_found):
    raise ImportError(f"kinmerge's code is a package `src`, and another one was imported before: {_found}")


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: it takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'kinmerge' has no {name!r}; it has {', '.join(__all__)}")
    home = import_module("src.runtime.errors") if name.endswith("Error") else import_module(".api", __name__)
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
