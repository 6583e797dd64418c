"""How this process was started, as the environment tells: known before anything heavy is imported."""

from __future__ import annotations

import os

from src.runtime.errors import UserError

_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
TOGETHER = "torchrun --nproc_per_node N -m src.run …"


def rank() -> int:
    """Return the number of this process among those of the run; 0 where it is alone."""
    return _first(_RANK, 0)


def processes() -> int:
    """Return how many processes the launcher says that it started."""
    return _first(_SIZE, 1)


def check() -> None:
    """Refuse `accelerate launch --cpu --num_processes N`, which starts one process and says nothing of it."""
    accelerated = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if accelerated and not any(name in os.environ for name in (*_RANK, *_SIZE)):
        raise UserError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; "
            f"start them with {TOGETHER}, or one with --num_processes 1"
        )


def _first(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
