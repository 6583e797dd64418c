"""Where the figures of a run are sent: the only place that knows W&B. Write-only; nothing is ever read back."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from src.config import Track, flat
from src.pages.markdown import fenced, plain
from src.runtime.errors import UserError, printable
from src.runtime.terminal import warn

PATIENCE = 15
"""Seconds that W&B's server has to answer the first call."""

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may be, and what it comes to; `run` and `dryrun` are W&B's older names."""

Row = Sequence[str | float | int | None]


class Tracker(Protocol):
    """What every tracker does. An absent one has the same methods and does nothing."""

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """The figures of one generation."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """A table, as it stands after this generation."""

    def figure(self, name: str, figure: Mapping[str, Any], generation: int) -> None:
        """A figure, as Plotly's plain data and layout."""

    def summary(self, values: Mapping[str, float | str]) -> None:
        """How the run ended."""

    def artifact(self, path: Path, kind: str) -> None:
        """A file worth keeping."""

    def finish(self) -> None:
        """Flush and close."""


class NoTracker:
    """No tracking."""

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """Do nothing."""

    def figure(self, name: str, figure: Mapping[str, Any], generation: int) -> None:
        """Do nothing."""

    def summary(self, values: Mapping[str, float | str]) -> None:
        """Do nothing."""

    def artifact(self, path: Path, kind: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class WandB:
    """Weights & Biases, through accelerate's tracker. Every figure is drawn over the step `generation`."""

    def __init__(self, settings: Track, folder: Path, config: Mapping[str, Any]) -> None:
        """Start a W&B run: online with an API key, else offline files in `folder`. Never a prompt."""
        import wandb
        from accelerate.tracking import WandBTracker

        self._wandb = wandb
        self._folder = folder
        wandb.setup(wandb.Settings(silent=True))  # W&B asks for a key nowhere but on a terminal that it may write to
        mode, name = _mode(settings.mode), str(config.get("name", folder.name))
        try:
            self._tracker = self._started(WandBTracker, settings, mode, name)
        except wandb.errors.Error as error:
            if mode == "offline":
                raise
            warn(f"W&B could not be reached ({_first_line(error)}); later: wandb sync {folder}/wandb/offline-run-*")
            wandb.teardown()  # its service would still hold the run's id
            self._tracker = self._started(WandBTracker, settings, "offline", name)
        # Flat: W&B's panels offer every key of one level by its name.
        self._tracker.store_init_configuration(flat(config))
        self._run = self._tracker.tracker
        self._run.define_metric("generation", hidden=True)
        self._run.define_metric("*", step_metric="generation")

    def _started(self, kind: Any, settings: Track, mode: str, name: str) -> Any:
        tracker = kind(
            settings.project,
            name=name,
            # The same folder is the same run on the server, however often it was interrupted.
            id=hashlib.sha256(str(self._folder).encode()).hexdigest()[:16],
            resume="allow",
            group=settings.group,
            dir=str(self._folder),
            mode=mode,
            # Offline files are flushed every 15 s otherwise, and a killed run would lose the last of them.
            settings=self._wandb.Settings(silent=True, x_transaction_log_flush_interval=1.0, init_timeout=PATIENCE),
        )
        tracker.start()
        return tracker

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """The figures of one generation."""
        self._tracker.log({**values, "generation": generation})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """A table, as it stands after this generation."""
        table = self._wandb.Table(columns=list(columns), data=list(map(_shown, rows)), allow_mixed_types=True)
        self._tracker.log({name: table, "generation": generation})

    def figure(self, name: str, figure: Mapping[str, Any], generation: int) -> None:
        """An interactive figure, under figures/."""
        from plotly.graph_objects import Figure

        self._tracker.log({f"figures/{name}": Figure(dict(figure)), "generation": generation})

    def summary(self, values: Mapping[str, float | str]) -> None:
        """How the run ended."""
        self._run.summary.update(dict(zip(values, _shown(values.values()), strict=True)))

    def artifact(self, path: Path, kind: str) -> None:
        """A file worth keeping."""
        artifact = self._wandb.Artifact(f"{path.stem}-{self._run.id}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Flush and close; a server that does not answer is waited for a minute, no longer."""
        uploading = threading.Thread(target=self._tracker.finish, daemon=True)
        uploading.start()
        uploading.join(60)
        if uploading.is_alive():
            warn(f"W&B did not take the last figures within a minute; later: wandb sync {self._folder}/wandb/*run-*")


class TensorBoard:
    """TensorBoard, through accelerate's tracker. It has no tables: they are sent as text."""

    def __init__(self, settings: Track, folder: Path, config: Mapping[str, Any]) -> None:
        """Start an event file in `folder`/tensorboard."""
        from accelerate.tracking import TensorBoardTracker

        self._tracker = TensorBoardTracker(settings.project, logging_dir=folder / "tensorboard")
        self._tracker.start()
        self._generation = 0
        self._tracker.log({f"config/{key}": str(value) for key, value in flat(config).items()}, step=0)

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """The figures of one generation."""
        self._generation = generation
        self._tracker.log(dict(values), step=generation)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """A table, as it stands after this generation."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(
            "| " + " | ".join("" if cell is None else plain(cell) for cell in line) + " |" for line in lines
        )
        self._tracker.log({name: text}, step=generation)

    def figure(self, name: str, figure: Mapping[str, Any], generation: int) -> None:
        """Do nothing: TensorBoard has no interactive figures; the run's report.html has them."""

    def summary(self, values: Mapping[str, float | str]) -> None:
        """How the run ended."""
        self._tracker.log({f"summary/{key}": value for key, value in values.items()}, step=self._generation)

    def artifact(self, path: Path, kind: str) -> None:
        """The file's text: TensorBoard keeps no files."""
        self._tracker.log({f"{kind}/{path.name}": fenced(path.read_text() + "\n", "")}, step=self._generation)

    def finish(self) -> None:
        """Flush and close."""
        self._tracker.finish()


class Guarded:
    """A tracker whose failure costs its figures and a warning, not the run."""

    def __init__(self, tracker: Tracker) -> None:
        """Guard this one."""
        self._tracker = tracker

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                getattr(self._tracker, name)(*arguments)
            except Exception as error:
                warn(f"tracking failed and goes on no further ({_first_line(error)}); the journal has every figure")
                self._tracker = NoTracker()

        return call


TRACKERS = {"wandb": WandB, "tensorboard": TensorBoard, "none": NoTracker}


def check(settings: Track) -> None:
    """Refuse what W&B would stumble over, or ask about, once the run is under way.

    Raises:
        UserError: a variable of W&B's that it cannot read, or figures that are to go online without a key.
    """
    if settings.tracker != "wandb":
        return
    told = os.environ.get("WANDB_MODE")
    if told is not None and told not in MODES:
        raise UserError(f"WANDB_MODE is {told!r}; expected online, offline or disabled, or unset it")
    _environment()
    if _mode(settings.mode) == "online" and not _has_key():
        what = "track.mode" if settings.mode == "online" else "WANDB_MODE"
        raise UserError(
            f"{what} is online, and W&B has no API key here; set WANDB_API_KEY, log in with `wandb login`, or take "
            "track.mode=offline"
        )


def start(settings: Track, folder: Path, config: Mapping[str, Any], *, main: bool = True) -> Tracker:
    """The tracker that the settings ask for; only the main process has one.

    Args:
        settings: which tracker, and its project and group.
        folder: the run's folder; its name is the run's, where the configuration has none.
        config: the run's settings, as plain nested data.
        main: whether this is the main process.
    """
    if settings.tracker == "none" or not main or (settings.tracker == "wandb" and _mode(settings.mode) == "disabled"):
        return NoTracker()
    from accelerate import PartialState  # it imports torch

    PartialState()  # accelerate's trackers ask it which process they are in
    return Guarded(TRACKERS[settings.tracker](settings, folder, config))


def _shown(cells: Iterable[Any]) -> list[Any]:
    return [printable(cell) if isinstance(cell, str) else cell for cell in cells]


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _mode(asked: str) -> str:
    """Return where W&B's figures go: online, offline or disabled. WANDB_MODE has a say where track.mode=auto alone."""
    if asked != "auto":
        return asked
    told = os.environ.get("WANDB_MODE")
    return MODES[told] if told is not None else "online" if _has_key() else "offline"


def _has_key() -> bool:
    """Return whether W&B would find an API key, by its own look-up; the public wandb.login would write files after it.

    Raises:
        UserError: there is one, and it cannot be one of W&B's.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    settings = _environment()
    try:
        host = wbauth.HostUrl(settings.base_url)
        return wbauth.authenticate_session(host=host, source="kinmerge", prompt=False, update_session=False) is not None
    except wandb.errors.Error as error:
        raise UserError(
            f"W&B's API key cannot be used ({_first_line(error)}); mend it, or take track.mode=offline"
        ) from error


def _environment() -> Any:
    """Return W&B's settings as its files and variables have them.

    Raises:
        UserError: W&B does not know what one of them says. It is not repeated: it may be a key.
    """
    import wandb
    from pydantic import ValidationError

    found = wandb.Settings(silent=True)
    found.update_from_system_settings()
    try:
        found.update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        wrong = error.errors()[0]
        variable = f"WANDB_{'_'.join(map(str, wrong['loc'])).upper()}"
        raise UserError(
            f"{variable} is nothing that W&B takes ({_first_line(wrong['msg'])}); mend or unset it"
        ) from error
    return found
