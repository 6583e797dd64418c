"""The processes of a run and the devices they use: the only place that knows accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from accelerate import PartialState

from src.config import Workers as WorkersSettings
from src.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """The process that runs this, as accelerate sees it, and how jobs are handed out.

    Attributes:
        device: what this process computes on, as torch names it.
        main: whether this process writes the journal and talks to the tracker.
        threads: torch's threads in this process.
    """

    def __init__(self, settings: WorkersSettings) -> None:
        """Ask accelerate for the device, and set the number of threads.

        Raises:
            UserError: several processes were started; a run is one process so far.
        """
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        state = PartialState(cpu=settings.device == "cpu")
        if state.num_processes > 1:
            raise UserError(
                f"{state.num_processes} processes were started, but a run is one process so far; "
                "start it with --num_processes 1, or without accelerate launch"
            )
        self.device = str(state.device)
        self.main = bool(state.is_main_process)
        self.threads = torch.get_num_threads()

    def map(self, job: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The result of `job` for every item, in order, each as soon as it is there."""
        return (job(item) for item in items)
