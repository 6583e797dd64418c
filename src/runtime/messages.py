"""What processes tell each other, through the store of torch.distributed: JSON, and numpy's arrays to the bit."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

_PAYLOAD = 4 << 20  # bytes; the store takes a little less than eight at a time


def put(store: Any, key: str, value: Any) -> None:
    """Put a value of JSON's types, numpy's numbers and arrays under a key, whatever its size."""
    data = base64.b64encode(zlib.compress(encoded(value).encode(), 1)).decode()
    parts = [data[at : at + _PAYLOAD] for at in range(0, len(data), _PAYLOAD)]
    for number, part in enumerate(parts[1:]):
        store.set(f"{key}/part/{number}", part)
    store.set(key, f"{len(parts) - 1} {parts[0]}")  # last: who sees it finds everything


def take(store: Any, key: str) -> Any:
    """Return what lies under a key; wait for it if need be. Tuples come back as lists."""
    more, _, data = store.get(key).decode().partition(" ")
    data += "".join(store.get(f"{key}/part/{number}").decode() for number in range(int(more)))
    return decoded(zlib.decompress(base64.b64decode(data)))


def encoded(value: Any) -> str:
    """Return a value as text.

    Raises:
        TypeError: it has something else in it.
    """
    return json.dumps(value, default=_plain)


def decoded(text: str | bytes) -> Any:
    """Return the value that `encoded` made text of."""
    return json.loads(text, object_hook=_arrays)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__array__": [str(value.dtype), value.shape, base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not travel between processes")


def _arrays(value: dict[str, Any]) -> Any:
    if "__array__" not in value:
        return value
    dtype, shape, data = value["__array__"]
    return np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy()
