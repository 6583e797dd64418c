"""The journal on disk: one line an event, each with a checksum, appended and synced."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.runtime.errors import UserError, machine_fault, persistently
from src.runtime.signals import uninterrupted

VERSION = 1
VOLATILE = frozenset({"seconds", "cached", "processes", "provenance"})
"""Fields that may differ between two runs of the same command; all others are the same, bit for bit."""

Event = dict[str, Any]


class Journal:
    """An append-only file of JSON lines, each with a checksum. One process writes it; a lock keeps out a second run."""

    def __init__(self, path: Path) -> None:
        """Open for appending, creating the file where there is none.

        A torn last line, left by a process that was killed while writing it, is cut off.

        Raises:
            UserError: another process holds the journal, or a line is damaged, or a newer version wrote it.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)  # a buffer would keep what could not be written
        except OSError as error:
            if machine_fault(error) and error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise
            raise UserError(
                f"{path.parent}: the run's folder cannot be written ({error.strerror}); choose another with outputs=… "
                "or name=…"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(
                f"{path.parent} is in use by another run; wait for it to end, or choose another folder with name=…"
            ) from None
        try:
            self.events, whole = parse(path)
        except UserError:
            self._file.close()
            raise
        self._whole = whole
        self._file.truncate(whole)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and wait until it is on the disk; after a MachineError the journal is as it was."""
        entry = {"event": event, **fields}
        persistently(lambda: self._put(entry), self.path)
        return entry

    def _put(self, entry: Event) -> None:
        with uninterrupted():
            line = rest = _line(len(self.events) + 1, entry)
            try:
                self._file.truncate(self._whole)  # in case an earlier attempt could not even do that
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):  # the next start cuts it off
                    self._file.truncate(self._whole)
                raise
            self._whole += len(line)
            self.events.append(entry)

    def close(self) -> None:
        """Release the file and its lock."""
        self._file.close()


class Follower:
    """The journal as the other processes of a run have it: they are told of what was written, and write nothing."""

    def __init__(self, events: Iterable[Event]) -> None:
        """Know of these events."""
        self.events = list(events)

    def append(self, event: str, **fields: Any) -> Event:
        """Know of one more event."""
        entry = {"event": event, **fields}
        self.events.append(entry)
        return entry

    def close(self) -> None:
        """Do nothing."""


def parse(path: Path) -> tuple[list[Event], int]:
    """Return the events of a journal, and how many bytes of the file they take: not all if its tail is torn.

    Raises:
        UserError: a whole line is damaged (names its number), or a newer version wrote the journal.
    """
    data = path.read_bytes()
    events: list[Event] = []
    whole = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        event = _event(number, line)
        if event is None and not events:
            raise UserError(
                f"{path} is no journal of a run, or damaged at line 1: its checksum does not match. Restore the file, "
                "or take another folder."
            )
        if event is None:
            raise UserError(
                f"{path} is damaged at line {number}: its checksum does not match, so it was changed or mangled. "
                f"Restore the file, or keep the {number - 1} good lines (head -n {number - 1}) and run again."
            )
        version = event.get("version")
        if number == 1 and isinstance(version, int) and version > VERSION:
            raise UserError(
                f"{path} was written by a newer kinmerge (journal version {version}, this one reads up to "
                f"{VERSION}); update, or start anew with name=…"
            )
        events.append(event)
        whole += len(line) + 1
    return events, whole


def _line(number: int, event: Event) -> bytes:
    body = json.dumps({"n": number, **event}, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return body[:-1] + _checksum(body) + b"\n"


def _event(number: int, line: bytes) -> Event | None:
    """Return the event that `line` holds; None where it is damaged."""
    mark = line.rfind(b',"crc":"')
    body = line[:mark] + b"}"
    if mark < 0 or line[mark:] != _checksum(body):
        return None
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):  # a checksum is soon computed
        return None
    return event if isinstance(event, dict) and event.pop("n", None) == number else None


def _checksum(body: bytes) -> bytes:
    """Return what a line ends with in place of its body's closing brace."""
    return b',"crc":"%08x"}' % zlib.crc32(body)


def events_of(folder: Path) -> list[Event]:
    """Return what the journal of the run in a folder tells; UserError where there is none, or `parse` refuses it."""
    path = folder / "journal.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} is no run: there is no journal.jsonl in it; expected outputs/NAME")
    return parse(path)[0]
