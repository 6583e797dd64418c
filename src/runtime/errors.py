"""The exceptions that carry a message in plain words, and whose fault an exception is: the machine's, or another's."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")

PAUSES = (1.0, 4.0)
"""Seconds before what failed for the machine's sake is tried again, and once more."""

_DISK = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ENOLCK", "EACCES", "EPERM")
_NETWORK = ("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ECONNRESET", "ECONNREFUSED", "ETIMEDOUT")
_ERRNOS = {getattr(errno, name) for name in (*_DISK, *_NETWORK) if hasattr(errno, name)}
# By their names, so that none of the libraries is imported for a question that is asked after a failure only.
_TYPES = {
    *("builtins.MemoryError", "builtins.ConnectionError", "builtins.TimeoutError", "socket.gaierror"),
    *("torch.OutOfMemoryError", "torch.AcceleratorError"),
    *("requests.exceptions.ConnectionError", "requests.exceptions.Timeout", "httpx.TransportError"),
    *("urllib3.exceptions.TimeoutError", "urllib3.exceptions.ProtocolError"),
    *("aiohttp.client_exceptions.ClientConnectionError", "ssl.SSLError"),
}
# What Rust (safetensors, tokenizers), C++ (torch, pyarrow) and SQLite leave of an errno, and what a GPU's driver says.
_WORDS = re.compile(
    "|".join(rf"\(os error {code}\)|\[Errno {code}\]|{re.escape(os.strerror(code))}" for code in sorted(_ERRNOS))
    + r"|can't allocate memory|database or disk is full|disk I/O error|(CUDA|HIP) (out of memory|error)|CU\w+_STATUS_"
)
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; free some space"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "; allow more open files (ulimit -n)"),
}


class _WordsError(Exception):
    """What is printed as it stands: whatever its message quotes, no line of it acts on a terminal."""

    def __str__(self) -> str:
        return printable_lines(super().__str__())


class UserError(_WordsError):
    """Bad input, found before work was wasted on it.

    The message is one or two lines: what was found, what was expected, what to do. Every command prints it without a
    traceback and ends with exit status 2.
    """


class SpoiledError(_WordsError):
    """A candidate that can never be a parent, whatever is tried; the run goes on without it."""


class FruitlessError(_WordsError):
    """A run that came to its end without one merge that worked; it ends with exit status 1.

    The message is one line and gives the reason of the first that failed.
    """


class MachineError(_WordsError):
    """The machine failed, not the user and not a candidate: the disk, the memory, a GPU, the network.

    The message is one line: what failed and where. The run ends with exit status 1, nothing counts as failed, and the
    same command goes on from the journal once the cause is gone.
    """


def printable(text: str) -> str:
    """Return the text with whatever would break its line, or move or colour the terminal, spelled out (`\\x1b`, `\\n`).

    Letters of every language stay; line breaks, escapes, marks that turn the direction of writing and halves of
    characters (of file names that are no UTF-8) do not.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each of them `printable`."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def machine_fault(error: BaseException) -> str | None:
    """Return what failed of the machine, and where, in one line; None where the error is anybody else's.

    An error that was raised because of another counts as that one. What carries a message of its own keeps it: neither
    a user's mistake nor a spoiled candidate is the machine's fault, whatever led to it.
    """
    if isinstance(error, MachineError):
        return str(error)
    for one in _chain(error):
        if isinstance(one, UserError | SpoiledError | FruitlessError):
            return None
        if _is_machines(one):
            return _described(one)
    return None


def in_words(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the words with which a command ends; None where only a traceback tells enough."""
    if isinstance(error, UserError):
        return 2, str(error)
    fault = str(error) if isinstance(error, FruitlessError) else machine_fault(error)
    return None if fault is None else (1, printable_lines(fault))


def persistently(work: Callable[[], Result], where: object) -> Result:
    """Return what `work` returns, which is begun again, after a pause, where the machine failed it.

    `where` is the place or the model at which it works, for the message.

    Raises:
        MachineError: the machine failed it each time, or `work` has given up itself. Any other exception of `work`.
    """
    for pause in (*PAUSES, None):
        try:
            return work()
        except Exception as error:
            if isinstance(error, MachineError) or (fault := machine_fault(error)) is None:
                raise
            if pause is None:
                raise MachineError(f"{where}: {fault}") from error
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return the error, and what it was raised because of."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        yield one
        seen.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _is_machines(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & _TYPES) or (isinstance(error, Exception) and _WORDS.search(str(error)) is not None)


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        text = f"{where}{error.strerror}"
    elif isinstance(error, MemoryError):
        text = f"out of memory ({text})"
    return text + next((advice for code, advice in _ADVICE.items() if os.strerror(code) in text), "")
