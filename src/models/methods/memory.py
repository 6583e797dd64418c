"""Arrays that were computed of one founder's tensor and are expensive to compute again, by content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import torch

Arrays = Mapping[str, torch.Tensor]
SIZE = 1 << 30
"""Bytes that a process keeps at most."""


class Memory:
    """At most `size` bytes of arrays; the least recently used go first. A key says all that its arrays depend on."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._kept: OrderedDict[str, Arrays] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Arrays | None:
        """Return what was put under the key, on the device it was put from; None if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep these arrays until others need the room, unless they are larger than all of it."""
        with self._lock:
            if key in self._kept or _bytes(arrays) > self._size:
                return
            self._kept[key] = arrays
            self._bytes += _bytes(arrays)
            while self._bytes > self._size:
                self._bytes -= _bytes(self._kept.popitem(last=False)[1])


shared = Memory()
"""The memory of this process."""


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
