"""A run that is killed while it works, and started again."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.processes import start, wait
from tests.test_run import events


def assert_same_journal(run: Callable[[str], int], outputs: Path, moments: Sequence[int]) -> None:
    """Run `whole` at one go, and `killed` with a SIGKILL once its journal has so many lines; both end alike."""
    assert run("whole") == 0
    journal = outputs / "killed/journal.jsonl"
    for lines in moments:
        (pid,) = start(1, lambda _: run("killed"))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert wait([pid]) == [-signal.SIGKILL]
    assert run("killed") == 0
    told = {name: [one for one in events(outputs, name) if one["event"] != "started"] for name in ("killed", "whole")}
    assert told["killed"] == told["whole"]
