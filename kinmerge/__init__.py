"""kinmerge in Python: `kinmerge.evolve(strategy="kinship_topk")`, `kinmerge.Run("outputs/NAME").to_pandas()`.

The code is the package `src`, beside this folder in a checkout and within it where it was installed. It is found by its
place, whatever else is called `src`. Whatever is not listed here is `src.…` once this was imported.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.api import Run, evolve, plan
    from src.runtime.errors import FruitlessError, MachineError, UserError

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "src/__init__.py").is_file())
"""Where `src` and `conf` lie."""
_HOME = {
    **dict.fromkeys(("Run", "evolve", "plan"), "src.api"),
    **dict.fromkeys(("FruitlessError", "MachineError", "UserError"), "src.runtime.errors"),
}

__all__ = ["FruitlessError", "MachineError", "Run", "UserError", "evolve", "plan"]


def _bind() -> None:
    """Import `src` from ROOT.

    Raises:
        ImportError: another package of that name was imported before.
    """
    file = ROOT / "src/__init__.py"
    if (known := sys.modules.get("src")) is not None:
        found = getattr(known, "__file__", None)
        if found is None or not file.samefile(found):
            where = found or list(known.__path__)
            raise ImportError(f"kinmerge's code is a package `src`, and another one was imported already: {where}")
        return
    spec = spec_from_file_location("src", file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["src"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


_bind()


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: it takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'kinmerge' has no {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "ROOT"]
