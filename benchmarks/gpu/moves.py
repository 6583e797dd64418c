"""How fast weights come to the GPU and back: mapped files, pages and pinned memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import torch
from safetensors import safe_open

from benchmarks.gpu import family
from benchmarks.gpu.place import Place, Row, bytes_of
from src.models.methods.matrices import digest
from src.models.private import to_host

BLOCK = 1 << 25


def run(place: Place) -> Iterator[Row]:
    """Move the largest tensor of two layers of 1 B's width there and back, in every way that merges know or could."""
    shapes = place.sizes.layers
    folder = family.generate(place.folder / "moved", shapes, 1, place.device).folders[0]
    name = max(shapes.tensors, key=lambda tensor: tensor[1][0] * tensor[1][-1])[0]
    file = next(file for file in folder.glob("*.safetensors") if name in _names(file))
    with safe_open(file, framework="pt") as opened:
        mapped = opened.get_tensor(name)
        rows = {"a mapped file, first touched now, to the GPU": lambda: mapped.to(place.device)}
        yield from _told(rows, mapped.nbytes, place)
        there, own = mapped.to(place.device), mapped.clone()
        block = torch.empty(BLOCK, dtype=torch.uint8, pin_memory=place.gpu)
        view, size = memoryview(block.numpy().data), min(BLOCK, mapped.nbytes)
        handle = os.open(file, os.O_RDONLY)

        def read() -> None:
            for start in range(0, mapped.nbytes, size):
                os.preadv(handle, [view], start)
                block.to(place.device)

        yield from _told(
            {
                "the same again": lambda: mapped.to(place.device),
                "memory of the process to the GPU": lambda: own.to(place.device),
                "a file, read into pinned memory, to the GPU": read,
                "the GPU to new memory of the process": lambda: there.cpu(),
                "the GPU to new memory that threads touched": lambda: to_host(there),
                "the GPU to memory that was used before": lambda: own.copy_(there),
                "the GPU, hashed (through pinned memory)": lambda: digest(there),
                "memory of the process, hashed": lambda: digest(own),
            },
            mapped.nbytes,
            place,
        )
        os.close(handle)
    yield Row("the tensor", f"{mapped.nbytes / 1e9:.2f} GB of a model of {bytes_of(shapes) / 1e9:.2f} GB")


def _names(file: os.PathLike[str]) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _told(ways: dict[str, Callable[[], object]], nbytes: int, place: Place) -> Iterator[Row]:
    for way, work in ways.items():
        began = time.perf_counter()
        work()
        if place.gpu:
            torch.cuda.synchronize()
        yield Row(way, f"{nbytes / (time.perf_counter() - began) / 1e9:.1f} GB/s")
