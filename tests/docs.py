"""The examples of docs/extending.md, to which the contracts apply that what is built in is held to."""

import re
from pathlib import Path
from typing import Any

from mergekit.merge_methods import registry

from src.models.methods import treated

EXTENDING = (Path(__file__).parent.parent / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", EXTENDING, flags=re.DOTALL))


def own(kind: str) -> dict[str, Any]:
    """What the file mine/KIND.py of the docs defines."""
    module: dict[str, Any] = {"__name__": __name__}
    exec(FILES[f"mine/{kind}.py"], module)
    return module


def own_method() -> str:
    """The name of the docs' merge method, which mergekit knows from then on."""
    name = "halfway"
    if name not in {method.spec.name for method in registry.registered_methods()}:
        own("method")
        treated.register()
    return name
