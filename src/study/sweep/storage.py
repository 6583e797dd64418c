"""Where a study lies: its Optuna storage, and the folder of its runs, in which each sweeper alive holds a lock."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from src.runtime.errors import UserError
from src.runtime.files import in_use

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def shown(storage: str | None) -> str:
    """Return the storage as users read it: without its password, which must not reach a screen or a log."""
    try:
        return make_url(str(storage)).render_as_string(hide_password=True)
    except ArgumentError:
        return "(hydra.sweeper.storage is no URL such as sqlite:///FILE)"


def check(storage: str | None, launcher: str) -> None:
    """Check what can be told of a sweep's storage before it is opened; `launcher` is the class that runs the trials.

    Raises:
        UserError: there is none, or its password would reach a file.
    """
    if storage is None:
        raise UserError("hydra.sweeper.storage is null, so that nothing could be continued; leave it, or give a URL")
    if "submitit" in launcher and "***" in shown(storage):
        raise UserError(
            f"hydra.sweeper.storage is {shown(storage)}, and submitit keeps a job's configuration in a file: give the "
            "password by ~/.pgpass or PGPASSWORD, and leave it out of the URL"
        )


def folders(storage: str) -> list[Path]:
    """Return the folder of every trial of every study in a storage, as far as they are on this machine.

    Raises:
        UserError: there is no such storage, or nothing of this program in it.
    """
    import optuna

    path = Path(storage.removeprefix("sqlite:///").partition("?")[0])
    if storage.startswith("sqlite:///") and not path.is_file():
        raise UserError(f"{storage}: there is no file {path}")  # SQLAlchemy would make an empty one
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        studies = optuna.get_all_study_names(storage)
        trials = [t for study in studies for t in optuna.load_study(study_name=study, storage=storage).trials]
    except Exception as error:  # of SQLAlchemy and of any database's driver
        raise UserError(f"{storage}: no Optuna storage could be read there ({str(error).splitlines()[0]})") from error
    found = [Path(trial.user_attrs["folder"]) for trial in trials if "folder" in trial.user_attrs]
    present = [folder for folder in found if folder.is_dir()]
    if not present:
        raise UserError(f"{storage}: none of its {len(trials)} trials has a run on this machine")
    return present


def trial_id(storage: BaseStorage, study: str, number: int) -> int:
    """Return the storage's own id of a study's trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)


@contextmanager
def presence(folder: Path) -> Iterator[str]:
    """Name this sweeper, and hold a lock on a file of that name as long as it lives.

    Where it fails, the file stays, without the lock, as after a kill: its trials may be under way still in a study that
    could not be told.
    """
    name = uuid.uuid4().hex
    path = folder / f".sweeper-{name}"
    with locked(path):
        yield name
        path.unlink(missing_ok=True)


def is_gone(folder: Path, sweeper: str) -> bool:
    """Return whether that sweeper was killed; False if it lives, or its machine does not share this folder."""
    path = folder / f".sweeper-{sweeper}"
    return path.exists() and not in_use(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be, for as long as the context lasts."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
