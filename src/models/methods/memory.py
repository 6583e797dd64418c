"""What was computed of one founder's tensor and is dear to compute again, by content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import torch

Arrays = Mapping[str, torch.Tensor]
SIZE = 1 << 30
"""Bytes that a process remembers at most."""


class Memory(Protocol):
    """Where singular value decompositions are kept; a key says all that the arrays depend on."""

    def get(self, key: str) -> Arrays | None:
        """Return what was put under the key, on the device it was put from or on the CPU; None if it is not there."""

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep these arrays, or do not: nothing relies on it."""


class Bounded:
    """Memory of this process, of at most `size` bytes; what was not asked for longest goes first."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._kept: OrderedDict[str, Arrays] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Arrays | None:
        """Return what was put under the key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep these arrays until others need the room; what is larger than the whole room is not kept."""
        with self._lock:
            if key in self._kept or _bytes(arrays) > self._size:
                return
            self._kept[key] = arrays
            self._bytes += _bytes(arrays)
            while self._bytes > self._size:
                self._bytes -= _bytes(self._kept.popitem(last=False)[1])


_memory: Memory = Bounded()


def install(memory: Memory) -> Memory:
    """Use this memory from now on; return the one that was used until now."""
    global _memory
    previous, _memory = _memory, memory
    return previous


def current() -> Memory:
    """Return the memory in use."""
    return _memory


def _bytes(arrays: Arrays) -> int:
    return sum(array.numel() * array.element_size() for array in arrays.values())
