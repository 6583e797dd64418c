"""Life signs: a process that dies, or makes no progress, ends the run of all others within seconds, in words."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT = 0.5
"""Seconds between two life signs."""
SILENCE = 20.0
"""Seconds without a life sign after which a process on another machine counts as dead. On this one its end is seen."""
COURTESY = 3.0
"""Seconds for which everybody else lets the one speak who says why the run ends."""
ADVICE = "what was finished is in the journal; the same command goes on from here"


class Watch:
    """A thread that shows the others that this process lives, and watches over them."""

    def __init__(self, store: Store, rank: int, processes: int, minutes: float) -> None:
        """Begin; `minutes` without progress count as hanging."""
        self._store = store
        self._rank = rank
        self._others = [other for other in range(processes) if other != rank]
        self._patience = 60 * minutes
        self._began = self._progress = time.monotonic()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._stop = threading.Event()
        self._me = [socket.gethostname(), os.getpid(), psutil.Process().create_time()]
        self._beat()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def pulse(self) -> None:
        """There is progress."""
        self._progress = time.monotonic()

    def tell(self, status: int, message: str) -> None:
        """Have all others end with this status; the first that speaks of an end is heard."""
        if not self._store.check(["ending"]):
            self._store.set("ending", json.dumps([self._rank, status, message]))

    def lost(self) -> str | None:
        """Which of the others is dead, hangs or is silent, in words; None while all is well."""
        for other in self._others:
            why = self._wrong_with(other)
            if why and not self._store.check([f"done/{other}"]):  # asked last: it may just have come to its end
                return f"{why}; {ADVICE}"
        return None

    def _wrong_with(self, other: int) -> str | None:
        if not self._store.check([f"beat/{other}"]):
            silent = time.monotonic() - self._began > SILENCE
            return f"process {other} has never given a sign of life" if silent else None
        beat = self._store.get(f"beat/{other}")
        before, since = self._seen.get(other, (b"", 0.0))
        if beat != before:
            self._seen[other] = beat, (since := time.monotonic())
        host, pid, born, _ = json.loads(beat)
        where, silence = f"process {other} (pid {pid} on {host})", time.monotonic() - since
        if host == self._me[0] and not _alive(pid, born):
            return f"{where} died"
        if host != self._me[0] and silence > SILENCE:
            return f"{where} has given no sign of life for {SILENCE:.0f} s"
        return f"{where} hangs: it was silent for {self._minutes}" if silence > self._patience else None

    def loss(self) -> str | None:
        """Return who is lost, where this is the process to say so; the store may be lost too."""
        try:
            return self.lost() if self._rank == min(self._living()) else None
        except Exception as error:
            return _gone(error)

    def rest(self) -> None:
        """Watch no longer; if something is being said already, this process ends here."""
        self._stop.set()
        self._thread.join()

    def leave_behind(self, error: Exception) -> None:
        """End this process: the store is gone, and with it the process that kept it."""
        self._leave(1, _gone(error), speaks=True)

    def stop(self, wait: bool) -> None:
        """Announce that this process has come to its end; if `wait`, so have all others, or one never will."""
        self.rest()
        self._store.set(f"done/{self._rank}", "")
        finished = [f"done/{other}" for other in self._others]
        while wait and not self._store.check(finished) and not self._store.check(["ending"]) and not self.lost():
            time.sleep(0.02)

    @property
    def _minutes(self) -> str:
        return f"{self._patience / 60:g} minutes (workers.timeout)"

    def _beat(self) -> None:
        self._store.set(f"beat/{self._rank}", json.dumps([*self._me, time.monotonic()]))

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._beat()
                if time.monotonic() - self._progress > self._patience:
                    self.tell(1, f"process {self._rank} hangs: no progress for {self._minutes}; {ADVICE}")
                if self._store.check(["ending"]):
                    teller, status, message = json.loads(self._store.get("ending"))
                    self._leave(status, message, speaks=self._rank == (0 if message else teller))
                elif why := self.lost():
                    self._leave(1, why, speaks=self._rank == min(self._living()))
            except Exception as error:
                if not self._stop.is_set():
                    self.leave_behind(error)

    def _living(self) -> Sequence[int]:
        """Return the processes that may still speak."""
        found = [self._rank]
        for other in self._others:
            if not self._store.check([f"beat/{other}"]):
                continue
            host, pid, born, _ = json.loads(self._store.get(f"beat/{other}"))
            if host != self._me[0] or _alive(pid, born):
                found.append(other)
        return found

    def _leave(self, status: int, message: str, speaks: bool) -> None:
        if speaks and message:
            print(f"error: {message}", file=sys.__stderr__, flush=True)
        else:
            time.sleep(COURTESY)  # a launcher ends everybody as soon as the first is gone
        os._exit(status)


def _gone(error: Exception) -> str:
    return f"process 0, or what started it, is gone ({(str(error).splitlines() or [''])[0][:80]}); {ADVICE}"


def _alive(pid: int, born: float) -> bool:
    try:
        found: Any = psutil.Process(pid)
        return bool(found.create_time() == born and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
