"""Arrays that were computed of one founder's tensor and are expensive to compute again, by content: in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from safetensors.torch import load, save

from src.runtime.cache import Cache

Arrays = Mapping[str, torch.Tensor]

_cache = Cache(None)


@contextmanager
def kept_in(cache: Cache) -> Iterator[None]:
    """Have merges within the block remember arrays in this cache; mergekit passes nothing on to merge methods."""
    global _cache
    before, _cache = _cache, cache
    try:
        yield
    finally:
        _cache = before


def get(key: str) -> Arrays | None:
    """Return what was put under the key, in main memory; None if it is not there."""
    return _cache.factors(key, load)


def put(key: str, arrays: Arrays) -> None:
    """Keep contiguous arrays under a key that says all that they depend on, if there is room for them."""
    _cache.keep_factors(key, lambda: save({name: array.cpu() for name, array in arrays.items()}))
