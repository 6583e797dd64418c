"""A checksum within what is written: what was changed, cut off or never ours is not believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

_MARK = b', "checksum": "'
_DIGEST = 32  # bytes of a sha256


def dump(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object, at least one key, with the sha256 of all that comes before it as its last key."""
    body = json.dumps(content).encode()
    return body[:-1] + _MARK + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def load(data: bytes) -> dict[str, Any]:
    """Return what `dump` was given, the checksum left out; ValueError where this is not that of the rest."""
    body, _, last = data.rpartition(_MARK)
    body += b"}"
    if last != hashlib.sha256(body).hexdigest().encode() + b'"}\n':
        raise ValueError("its checksum does not match its content")
    found: dict[str, Any] = json.loads(body)
    return found


def wrap(content: bytes, key: str) -> bytes:
    """Return the content with a sha256 of itself and of `key` behind it."""
    return content + hashlib.sha256(key.encode() + content).digest()


def unwrap(data: bytes, key: str) -> bytes:
    """Return what `wrap` was given under the same key; ValueError where it was changed, or never wrapped so."""
    content = data[:-_DIGEST]
    if data[-_DIGEST:] != hashlib.sha256(key.encode() + content).digest():
        raise ValueError("its checksum does not match its content")
    return content


def of_range(path: Path, start: int, count: int) -> bytes:
    """Return the xxh3_128 digest of `count` bytes, read through one small buffer; EOFError if the file ends before."""
    whole, buffer = xxhash.xxh3_128(), memoryview(bytearray(min(count, 1 << 20)))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while count:
            if not (got := file.readinto(buffer[:count])):
                raise EOFError(path)
            whole.update(buffer[:got])
            count -= got
    return whole.digest()


def of_file(path: Path) -> str:
    """Return the xxh3_128 hex digest of a file's bytes."""
    return of_range(path, 0, path.stat().st_size).hex()
