"""Kinship on the GPU: its speed beside the memory's, the file's and the processors', and whether it is the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import family
from benchmarks.gpu.place import GIB, Place, Row
from benchmarks.kinship import read_only
from src import kinship
from src.kinship import METRICS, Grams
from src.models.checkpoint import open_checkpoint

CLOSE = 1e-6
MANY = 8


def run(place: Place) -> Iterator[Row]:
    """Measure the family of 1 B parameters, and one of eight smaller models."""
    if place.gpu:
        rate = copied(place.device)
        yield Row("a copy within the GPU's memory", f"{rate / 1e9:,.0f} GB/s, read and written")
    yield from compared(place, family.at(place.folder / "one").folders, f"3 models, {place.sizes.name('1 B')}")
    small = family.generate(place.folder / "many", place.sizes.small, MANY, place.device)
    yield from compared(place, small.folders, f"{1 + MANY} models, {place.sizes.name('135 M')}")


def compared(place: Place, folders: tuple[Path, ...], what: str) -> Iterator[Row]:
    """Measure one family on the GPU and on the processors."""
    base, *others = (open_checkpoint(folder) for folder in folders)
    models = {folder.name: model for folder, model in zip(folders[1:], others, strict=True)}
    nbytes = base.nbytes + sum(model.nbytes for model in others)
    limit = min(read_only([base, *others], size) for size in (1 << 20, 4 << 20))
    if place.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    there, grams = _least(lambda: kinship.measure(base, models, device=place.device))
    here, wanted = _least(lambda: kinship.measure(base, models))

    def speed(seconds: float) -> str:
        return f"{seconds:.2f} s, {nbytes / seconds / 1e9:.1f} GB/s"

    yield Row(
        f"{what}, {nbytes / 1e9:.1f} GB: {place.device}",
        f"{speed(there)}, {limit / there:.2f} of the read limit",
        f"processors: {speed(here)}; reading alone: {speed(limit)}",
    )
    if place.gpu:
        yield Row(f"{what}: memory of the GPU", f"{torch.cuda.max_memory_allocated() / GIB:.2f} GiB at most")
    worst = difference(grams, wanted)
    yield Row(
        f"{what}: largest difference of any metric and pair", f"{worst:.0e}", f"at most {CLOSE:.0e}", worst <= CLOSE
    )
    if place.gpu:
        yield from _parts(len(folders), place.device, what)


def _parts(rows: int, device: str, what: str) -> Iterator[Row]:
    """Time what a pass on the GPU consists of, for one block of all models."""
    count = (64 << 20) // 2 // rows
    raw = torch.zeros(rows, count, dtype=torch.bfloat16).pin_memory()
    there = raw.to(device)
    wide = there.double()
    parts = {
        "to the GPU": lambda: raw.to(device),
        "widened": lambda: there.double(),
        "product in float64": lambda: wide @ wide.T,
        "sums": lambda: wide.sum(1),
    }
    found = ", ".join(f"{name} {1000 * _timed(work):.1f}" for name, work in parts.items())
    yield Row(f"{what}: a block of 64 MiB, ms", found)


def copied(device: str) -> float:
    """Return the bytes a second, read and written, of a copy within a device's memory."""
    source = torch.zeros(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _timed(lambda: target.copy_(source))


def difference(one: Grams, other: Grams) -> float:
    """Return the largest relative difference of any metric and pair."""
    above = np.triu_indices(len(one.names), k=1)
    return max(
        float(np.max(np.abs(metric.of(one)[above] - metric.of(other)[above]) / np.abs(metric.of(other)[above])))
        for metric in METRICS.values()
    )


def _timed(work: Callable[[], object]) -> float:
    """Return the least of four times on the GPU, in seconds."""
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _least(work: Callable[[], Grams]) -> tuple[float, Grams]:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        grams = work()
        times.append(time.perf_counter() - began)
    return min(times), grams
