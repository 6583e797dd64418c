"""Whole runs of 1 B and of 7 B parameters, by phase, beside what the plan had said."""

from __future__ import annotations

import ctypes
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.gpu import family, forked
from benchmarks.gpu.family import Family
from benchmarks.gpu.place import GIB, Place, Row, bytes_of, processors
from benchmarks.gpu.runs import arguments, events
from src.models.checkpoint import open_checkpoint
from src.models.methods.forecast import forecast

PHASES = frozenset({"measured", "evaluated", "merged", "held_out", "stopped"})
PACE = 7e-9
"""Seconds a byte of one model that a whole run of `METHODS[0]` is expected to take, after its family was written."""
METHODS = ("wudi", "task_arithmetic")
PROBED = 2
"""Layers of the family that says how fast files are written."""


def one(place: Place) -> Iterator[Row]:
    """Merge the founders of 1 B parameters at once and evaluate everything."""
    made = family.at(place.folder / "one")
    said = forked.call(_forecast, made, "wudi", place.device)
    forked.preload()
    yield from _run(place, place.sizes.name("1 B"), made, "wudi", place.elsewhere / "outputs", said)
    shutil.rmtree(place.folder / "one")


def large(place: Place) -> Iterator[Row]:
    """Do the same with 7 B parameters, or with as many layers of that width as there is room and time for."""
    making = forked.begin(_make, place)
    forked.preload()
    name, layers, room, outputs, made, said = making()
    if made is None or room is None or outputs is None:
        yield Row(name, "left out: no room, or no time, for a base, two founders and the run")
        return
    rate = made.nbytes / made.seconds / 1e9
    size = made.nbytes / len(made.folders)
    yield Row(
        f"{name}, {layers} layers: three models of {size / 1e9:.1f} GB drawn and written",
        f"{made.seconds:.0f} s, {rate:.1f} GB/s, to {room}",
    )
    for number, method in enumerate(METHODS):
        if number and place.end - time.monotonic() < 0.6 * PACE * size:
            yield Row(f"{name} by {method}", f"left out: {place.end - time.monotonic():.0f} s were left")
        else:
            yield from _run(place, name, made, method, outputs, said if method == METHODS[0] else [])
    shutil.rmtree(room / "large")


def _make(place: Place) -> tuple[str, int, Path | None, Path | None, Family | None, list[str]]:
    """Write the largest family that there is room and time for.

    Returns:
        Its name, its layers, the folders for it and for runs, itself, and what the plan says of METHODS[0].
    """
    wanted = place.sizes.large
    torch.zeros(1, device=place.device)
    probe = family.generate(place.folder / "probe", wanted.shapes(PROBED), 2, place.device, files=processors())
    shutil.rmtree(place.folder / "probe")
    rate = probe.nbytes / probe.seconds
    print(f"the probe: {probe.seconds:.2f} s, {rate / 1e9:.2f} GB/s", flush=True)
    for layers in range(wanted.layers, PROBED, -1):
        shapes = wanted.shapes(layers)
        size = bytes_of(shapes)
        room = place.room(3 * size)
        outputs = place.room(5 * size + size // 5) if room == place.folder else place.room(2 * size + size // 5)
        if room and outputs and size * (3 / rate + PACE) < place.end - time.monotonic():
            made = family.generate(room / "large", shapes, 2, place.device)
            name = wanted.name if layers == wanted.layers else f"the width of {wanted.name}"
            return name, layers, room, outputs, made, _forecast(made, METHODS[0], place.device)
    return wanted.name, 0, None, None, None, []


def _run(place: Place, name: str, made: Family, method: str, outputs: Path, said: list[str]) -> Iterator[Row]:
    rules = [f"merge={method}", "evaluate.limit=200", f"outputs={outputs / 'runs'}", "cache=on", "keep=all"]
    override = arguments(place, made, place.folder / "tasks", method, *rules)
    gib = made.nbytes / len(made.folders) / GIB
    what = f"{name} ({gib:.1f} GiB), two founders by {method}"
    if said:
        yield Row(f"{what}: the plan", "; ".join(said))
    began = time.perf_counter()
    process = forked.start(override)
    for phase in followed(process, outputs / "runs" / method, place):
        gpu = f", {phase.gpu / GIB:.1f} on the GPU" if place.gpu else ""
        yield Row(
            f"{what}: until {phase.until}", f"{phase.seconds:.1f} s", f"{phase.host / GIB:.1f} GiB allocated{gpu}"
        )
    status = process.exitcode
    seconds = time.perf_counter() - began
    yield Row(f"{what}: the whole run", f"{seconds:.0f} s, status {status}", "imports not counted", status == 0)
    shutil.rmtree(outputs / "runs" / method, ignore_errors=True)


def _forecast(made: Family, method: str, device: str) -> list[str]:
    base = open_checkpoint(made.folders[0])
    founders = {model: open_checkpoint(path) for model, path in made.models.items()}
    return forecast(method, base, founders, len(founders), device=device, threads=processors())


@dataclass(frozen=True)
class Phase:
    """What passed until an event of the journal."""

    until: str
    seconds: float
    host: int
    """Bytes allocated at most, without mapped files."""
    gpu: int
    """Bytes of the GPU in use at most, by anybody, above what was before."""


def followed(process: BaseProcess, run: Path, place: Place) -> Iterator[Phase]:
    """Yield what passed between the events of a run's journal, as it comes."""
    used = memory_in_use() if place.gpu else lambda: 0
    before = used()
    since = time.perf_counter()
    host = gpu = seen = 0
    alive = True
    while alive:
        threading.Event().wait(0.05)
        alive = process.is_alive()
        host, gpu = max(host, _allocated(process.pid or 0)), max(gpu, used() - before)
        found = events(run)
        ended = [
            f"{event['event']} {event.get('model', '')}".strip() for event in found[seen:] if event["event"] in PHASES
        ]
        seen = len(found)
        for label in [*ended, *(["the end"] if not alive else [])]:
            now = time.perf_counter()
            yield Phase(label, now - since, host, gpu)
            since, host, gpu = now, 0, 0


def memory_in_use() -> Callable[[], int]:
    """Return a function that says how many bytes of the first GPU are in use, without using it.

    Asked of NVML: CUDA would tell, too, but a process that has asked it cannot fork any more.
    """

    class Memory(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        device, found = ctypes.c_void_p(), Memory()
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return lambda: 0
    except (OSError, AttributeError):
        return lambda: 0

    def used() -> int:
        return int(found.used) if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(found)) == 0 else 0

    return used


def _allocated(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return 1024 * int(status.split("RssAnon:")[1].split()[0])
    except (OSError, IndexError):
        return 0
