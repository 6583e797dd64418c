"""Files that appear whole or not at all, readable by whoever the umask says; and what only looks like a file."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from src.runtime.errors import UserError

_PARTIAL = ".partial"
_FICLONE = 0x40049409  # of linux/fs.h; Python's fcntl names it from 3.13 on


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` at which to make a file or folder; sync it, and put it in place of what lay there.

    After an exception what was made is removed and `path` stays as it was. The parent folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        for made in (*partial.rglob("*"), partial):
            _sync(made)
        if partial.is_dir() and path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill, which takes its place as in `replacing`."""
    with replacing(path) as partial:
        partial.mkdir()
        yield partial


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader finds the old content or the new one."""
    write_bytes(path, text.encode())


def check_regular(path: Path) -> None:
    """Raise UserError if what is there, links followed, is no ordinary file.

    A pipe would be waited for until somebody writes to it, and a device may never end.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    raise UserError(f"{path} is a {kinds.get(stat.S_IFMT(mode), 'device')}; expected a file: remove it, or replace it")


def copy(source: Path, target: Path) -> None:
    """Copy a file's content, never as a hard link: what is written to the one must not reach the other.

    Where the file system can, the two share their blocks until one of them is written to (a reflink).
    """
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            fcntl.ioctl(writer, _FICLONE, reader.fileno())
    except OSError:  # another file system, or one that shares nothing
        shutil.copyfile(source, target)


def partial_path(path: Path) -> Path:
    """Return the place beside `path` where this thread of this process prepares it: .NAME.HOST.PID.THREAD.partial."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}{_PARTIAL}")


def remove_abandoned(folder: Path, *, alone: bool = False) -> None:
    """Remove the partial files and folders within `folder` (not below it) whose writer is no longer alive.

    What another host wrote is left alone, since nobody here can tell whether it still writes; unless the caller is
    `alone`, behind a lock that keeps everybody else from writing there: then whatever lies there was abandoned.
    """
    for left in folder.glob(f".*{_PARTIAL}"):
        host, _, rest = left.name.removesuffix(_PARTIAL).rpartition(".")[0].rpartition(".")
        here = host.endswith(f".{socket.gethostname()}") and rest.isdigit()
        if alone or (here and not psutil.pid_exists(int(rest))):
            _remove(left)


def in_use(path: Path) -> bool:
    """Return whether a process holds the lock of this file; False where there is no file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def size_words(nbytes: float) -> str:
    """Return a size in the unit that suits it: 100 bytes, 2.5 KiB, 1,536.0 GiB."""
    if nbytes < 1024:
        return f"{nbytes:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        nbytes /= 1024
        if nbytes < 1000 or unit == "GiB":
            break
    return f"{nbytes:,.1f} {unit}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
