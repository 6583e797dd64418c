"""Definition: what the YAML files of a task say, read without executing anything that they name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import lm_eval.api.metrics  # fills the registry of metrics
import lm_eval.tasks
import yaml
from datasets.naming import camelcase_to_snakecase
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from src.evaluation.private import Kind, load_yaml

SHIPPED = Path(lm_eval.tasks.__file__).resolve().parent
"""Where lm-eval's own tasks lie. What they execute is installed with it."""
_PACKAGED = ("json", "csv", "parquet", "arrow", "text")
"""What `datasets` reads from files by itself."""


@dataclass(frozen=True)
class Definition:
    """A task or a group of tasks, as its YAML files have it."""

    name: str
    kind: Kind
    config: Mapping[str, Any]
    """The files merged as lm-eval merges them. A function is the text that names it."""
    files: tuple[Path, ...]
    """Its own file, then all that it includes."""

    @property
    def shipped(self) -> bool:
        """Whether it is lm-eval's own."""
        return SHIPPED in self.files[0].parents

    @property
    def metrics(self) -> list[str] | None:
        """The names of a task's metrics; None where only the task itself, once made, could tell."""
        entries = list(_metric_entries(self.config))
        listed = [name for entry in entries if isinstance(name := entry.get("metric"), str) and "/" not in name]
        return listed if self.kind == Kind.TASK and listed and len(listed) == len(entries) else None

    @property
    def filters(self) -> list[str]:
        """The names of a task's filters, as lm-eval's results have them."""
        return [str(one.get("name")) for one in self.config.get("filter_list") or ()] or ["none"]

    @property
    def is_local(self) -> bool:
        """Whether all of a task's data are files on this machine, as far as its definition tells."""
        if self.kind == Kind.GROUP:
            return "dataset_path" not in str(self.config)
        path, given = str(self.config.get("dataset_path")), str(self.config.get("dataset_kwargs"))
        local = "class" in self.config or path in _PACKAGED or Path(path).is_dir()
        return local and "://" not in given and not self.shipped

    @property
    def is_downloaded(self) -> bool:
        """Whether a task's data set, in some version, lies in the cache of `datasets`, by the name it has there."""
        *namespace, name = str(self.config.get("dataset_path")).split("/")
        folder = "___".join([*namespace, camelcase_to_snakecase(name)])
        return (Path(datasets.config.HF_DATASETS_CACHE) / folder).is_dir()

    def code(self, own: Mapping[str, bytes]) -> str | None:
        """Return what of this executes code that came with the task or from a model, in words; None if nothing does.

        `own` has this program's own source by the reference to it: a copy beside the YAML is no foreign code.
        """
        for file in self.files:
            for reference in () if SHIPPED in file.parents else _functions(file):
                if not _is_copy(file.parent, reference, own):
                    return f"{file} has `!function {reference}`, which executes Python that came with the task"
            if load_yaml(file, resolve_func=False, recursive=False).get("unsafe_code", False) is not False:
                return f"{file} has unsafe_code, which executes what a model wrote"
        if not self.shipped:
            for entry in _metric_entries(self.config):
                name = str(entry.get("metric"))
                if "/" in name or entry.get("hf_evaluate") or name not in metric_registry:
                    near = difflib.get_close_matches(name, metric_registry.keys(), n=1)
                    hint = f" (did you mean {near[0]}?)" if near else ""
                    return f"the metric {name!r} is none of lm-eval's{hint}: code found under that name is executed"
        return None


def definitions(manager: TaskManager, name: str) -> Iterator[Definition]:
    """Yield the definition of a task; of a group or a tag that of every task and group which it may lead to."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        entry = manager.task_index.get(name := todo.pop(0))
        if name in seen or entry is None:
            continue
        seen.add(name)
        if entry.yaml_path is not None:
            config = load_yaml(entry.yaml_path, resolve_func=False)
            yield Definition(name, entry.kind, config, tuple(_included(entry.yaml_path, [])))
            if entry.kind == Kind.GROUP:
                todo += [text for text in _nested(config.get("task")) if isinstance(text, str)]
        elif entry.kind == Kind.TAG:
            todo += sorted(entry.tags)


def _included(file: Path, seen: list[Path]) -> list[Path]:
    """Return a file and all that it includes, as lm-eval finds them."""
    file = file.expanduser().resolve()
    if file not in seen:
        seen.append(file)
        found = load_yaml(file, resolve_func=False, recursive=False).get("include") or []
        for other in found if isinstance(found, list) else [found]:
            _included(file.parent / other, seen)
    return seen


def _functions(file: Path) -> list[str]:
    """Return the references that a file marks as functions, which lm-eval imports as soon as it loads the file."""
    events = yaml.parse(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [str(getattr(event, "value", "")) for event in events if getattr(event, "tag", None) == "!function"]


def _is_copy(folder: Path, reference: str, own: Mapping[str, bytes]) -> bool:
    """Return whether what lm-eval will import for this reference is the source in `own`, to the byte."""
    file = folder / f"{reference.rpartition('.')[0]}.py"
    try:
        if reference not in own or file.read_bytes() != own[reference]:
            return False
        # Python prefers a compiled copy, which says itself that it fits; whoever made the folder may have made that.
        Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _nested(value: Any) -> Iterator[Any]:
    """Yield a value and all that its lists and mappings hold, outermost first."""
    yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _nested(inner)


def _metric_entries(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the metrics of a task, and of the tasks that a group's file spells out."""
    for found in _nested(config):
        listed = found.get("metric_list") if isinstance(found, Mapping) else None
        yield from (entry for entry in listed if isinstance(entry, Mapping)) if isinstance(listed, list) else ()
