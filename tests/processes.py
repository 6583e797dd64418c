"""Several processes on this machine, as a launcher would start them, but forked: everything is imported already."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState

import src.evolution  # noqa: F401 (so that it is imported before anybody is forked)

Work = Callable[[int], int]


def start(count: int, work: Work, output: Path | None = None) -> list[int]:
    """The ids of `count` processes that do the work, given their number, and leave with the status it returns.

    What they print goes to the files `output`.0, `output`.1, …, or nowhere.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_fork(rank, count, port, work, output) for rank in range(count)]


def _fork(rank: int, count: int, port: int, work: Work, output: Path | None) -> int:
    if pid := os.fork():
        return pid
    status, reporting = 99, os.dup(2)
    try:
        file = Path(os.devnull if output is None else f"{output}.{rank}").open("w", buffering=1)  # noqa: SIM115
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = sys.__stderr__ = file  # type: ignore[misc]
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()} if count > 1 else {}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        PartialState._reset_state()
        status = work(rank)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        told = traceback.format_exc()
        print(told, file=sys.stderr)
        os.write(reporting, told.encode())  # whoever waits may have nothing else of it
    finally:
        os._exit(status)


def wait(pids: Sequence[int], seconds: float = 900.0) -> list[int]:
    """The exit status of each (negative: the signal that ended it); whoever takes longer is killed."""
    found: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(found) < len(pids):
        for pid in set(pids) - set(found):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                found[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [found[pid] for pid in pids]
