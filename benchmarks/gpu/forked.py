"""Programs in a copy of this process, which has imported what they need: a run begins at once.

This process itself may neither compute with torch nor touch the GPU, or its copies cannot.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from benchmarks.gpu.place import ROOT, environment

T = TypeVar("T")
NEEDED = (
    *("src.run", "src.plan", "src.zoo", "src.evolution", "src.evaluation.tasks", "src.evaluation.model"),
    *("src.evaluation.evaluator", "src.models.founders", "src.models.merging", "src.models.methods.cost"),
    *("src.export.upload", "src.export.winner", "src.report.page", "src.study.sweep.verdict", "src.tracking.trackers"),
    *("lm_eval.models.huggingface", "transformers.models.llama.modeling_llama", "mergekit.merge", "datasets"),
)


def preload() -> None:
    """Import what runs import, so that copies of this process have it."""
    for name in NEEDED:
        importlib.import_module(name)


def start(overrides: Sequence[str]) -> BaseProcess:
    """Begin `python -m src.run` with these overrides."""
    process = get_context("fork").Process(target=_run, args=(list(overrides),))
    process.start()
    return process


def begin(work: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Begin to call a function in a copy of this process; return a function that waits for what it returns.

    Raises:
        RuntimeError: from what is returned: it failed; the log has why.
    """
    here, there = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_call, args=(there, work, arguments))
    process.start()
    there.close()

    def wait() -> T:
        try:
            found: T = here.recv()
        except EOFError:
            raise RuntimeError(f"{getattr(work, '__name__', work)} failed; the log has why") from None
        finally:
            process.join()
        return found

    return wait


def call(work: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns in a copy of this process."""
    return begin(work, *arguments)()


def _call(to: Connection, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    to.send(work(*arguments))


def _run(overrides: list[str]) -> None:
    os.chdir(ROOT)
    os.environ.update(environment())
    if torch.cuda._is_in_bad_fork():  # a library touched the GPU when it was imported
        os.execv(sys.executable, [sys.executable, "-m", "src.run", *overrides])
    sys.argv = ["run", *overrides]
    from src import run

    known = set(sys.modules)
    run.main()
    print("imported besides:", *sorted({name.split(".")[0] for name in set(sys.modules) - known}), flush=True)
