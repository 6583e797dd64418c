"""Where the figures of a run are sent: W&B, TensorBoard, or nowhere. Write-only; nothing is ever read back."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Track, flat
from src.pages.markdown import fenced, plain
from src.runtime.errors import UserError, printable
from src.runtime.terminal import warn
from src.tracking import private
from src.tracking.private import first_line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PATIENCE = 15
"""Seconds that W&B's server has to answer the first call."""

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may be, and what it comes to; `run` and `dryrun` are W&B's older names."""

Row = Sequence[str | float | int | None]


class Tracker:
    """No tracking: every method does nothing. The trackers below replace those that they have a place for."""

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """Send the numbers of one generation."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """Send a table as it stands after this generation."""

    def figure(self, name: str, figure: Figure, generation: int) -> None:
        """Send an interactive figure."""

    def summary(self, values: Mapping[str, float | str]) -> None:
        """Send the result of the run."""

    def artifact(self, path: Path, kind: str) -> None:
        """Send a file."""

    def finish(self) -> None:
        """Flush and close."""


class WandB(Tracker):
    """Weights & Biases. Everything is drawn over the step `generation`; figures are under figures/."""

    def __init__(self, settings: Track, folder: Path, config: Mapping[str, Any]) -> None:
        """Start a W&B run: online with an API key, else offline files in `folder`. Never a prompt."""
        import wandb

        self._wandb, self._folder = wandb, folder
        wandb.setup(wandb.Settings(silent=True))  # W&B asks for a key nowhere but on a terminal that it may write to
        mode, name = _mode(settings.mode), str(config.get("name", folder.name))
        try:
            self._run = self._init(settings, mode, name)
        except wandb.errors.Error as error:
            if mode == "offline":
                raise
            warn(f"W&B could not be reached ({first_line(error)}); later: wandb sync {folder}/wandb/offline-run-*")
            wandb.teardown()  # its service would still hold the run's id
            self._run = self._init(settings, "offline", name)
        self._run.config.update(flat(config), allow_val_change=True)  # flat: W&B's panels offer keys of one level
        self._run.define_metric("generation", hidden=True)
        self._run.define_metric("*", step_metric="generation")

    def _init(self, settings: Track, mode: str, name: str) -> Any:
        return self._wandb.init(
            project=settings.project,
            name=name,
            # The same folder is the same run on the server, however often it was interrupted.
            id=hashlib.sha256(str(self._folder).encode()).hexdigest()[:16],
            resume="allow",
            group=settings.group,
            dir=str(self._folder),
            mode=mode,  # type: ignore[arg-type]
            # Offline files are flushed every 15 s otherwise, and a killed run would lose the last of them.
            settings=self._wandb.Settings(silent=True, x_transaction_log_flush_interval=1.0, init_timeout=PATIENCE),
        )

    def log(self, values: Mapping[str, Any], generation: int) -> None:
        """Send the numbers of one generation."""
        self._run.log({**values, "generation": generation})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """Send a table as it stands after this generation."""
        cells = [list(map(_printable, row)) for row in rows]
        self.log({name: self._wandb.Table(list(columns), cells, allow_mixed_types=True)}, generation)

    def figure(self, name: str, figure: Figure, generation: int) -> None:
        """Send an interactive figure."""
        self.log({f"figures/{name}": figure}, generation)

    def summary(self, values: Mapping[str, float | str]) -> None:
        """Send the result of the run."""
        self._run.summary.update({name: _printable(value) for name, value in values.items()})

    def artifact(self, path: Path, kind: str) -> None:
        """Send a file."""
        artifact = self._wandb.Artifact(f"{path.stem}-{self._run.id}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Flush and close; wait a minute, no longer, for a server that does not answer."""
        uploading = threading.Thread(target=self._run.finish, daemon=True)
        uploading.start()
        uploading.join(60)
        if uploading.is_alive():
            warn(f"W&B did not take the last figures within a minute; later: wandb sync {self._folder}/wandb/*run-*")


class TensorBoard(Tracker):
    """TensorBoard. It has neither tables nor files, so they are sent as text, and no interactive figures."""

    def __init__(self, settings: Track, folder: Path, config: Mapping[str, Any]) -> None:
        """Start an event file in `folder`/tensorboard/PROJECT."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard" / settings.project)
        self._generation = 0
        for key, value in flat(config).items():
            self._writer.add_text(f"config/{key}", str(value), 0)

    def log(self, values: Mapping[str, Any], generation: int) -> None:
        """Send the numbers, or the texts, of one generation."""
        self._generation = generation
        for name, value in values.items():
            add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
            add(name, value, generation)
        self._writer.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """Send a table, as Markdown, as it stands after this generation."""
        lines = [columns, ["---"] * len(columns), *rows]
        cells = [["" if cell is None else plain(cell) for cell in line] for line in lines]
        self.log({name: "\n".join(f"| {' | '.join(line)} |" for line in cells)}, generation)

    def summary(self, values: Mapping[str, float | str]) -> None:
        """Send the result of the run."""
        self.log({f"summary/{name}": value for name, value in values.items()}, self._generation)

    def artifact(self, path: Path, kind: str) -> None:
        """Send the text of a file."""
        self.log({f"{kind}/{path.name}": fenced(path.read_text() + "\n", "")}, self._generation)

    def finish(self) -> None:
        """Flush and close."""
        self._writer.close()


class _Guarded(Tracker):
    """A tracker whose failure costs its figures and a warning, not the run."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)

        def call(*arguments: Any) -> None:
            try:
                getattr(self._tracker, name)(*arguments)
            except Exception as error:
                warn(f"tracking failed and goes on no further ({first_line(error)}); the journal has every figure")
                self._tracker = Tracker()

        return call


TRACKERS = {"wandb": WandB, "tensorboard": TensorBoard, "none": Tracker}


def check(settings: Track) -> None:
    """Refuse what W&B would fail at, or ask about, once the run is under way.

    Raises:
        UserError: a variable of W&B's that it cannot read, or figures that are to go online without a key.
    """
    if settings.tracker != "wandb":
        return
    variable = os.environ.get("WANDB_MODE")
    if variable is not None and variable not in MODES:
        raise UserError(f"WANDB_MODE is {variable!r}; expected online, offline or disabled, or unset it")
    private.wandb_settings()
    if _mode(settings.mode) == "online" and not private.has_wandb_key():
        what = "track.mode" if settings.mode == "online" else "WANDB_MODE"
        raise UserError(
            f"{what} is online, and W&B has no API key here; set WANDB_API_KEY, log in with `wandb login`, or take "
            "track.mode=offline"
        )


def start(settings: Track, folder: Path, config: Mapping[str, Any], *, main: bool = True) -> Tracker:
    """Return the tracker that the settings ask for; one that does nothing in all processes but the main one.

    Args:
        settings: which tracker, and its project and group.
        folder: the run's folder; its name is the run's, where the configuration has none.
        config: the run's settings, as plain nested data.
        main: whether this is the main process.
    """
    if settings.tracker == "none" or not main or (settings.tracker == "wandb" and _mode(settings.mode) == "disabled"):
        return Tracker()
    return _Guarded(TRACKERS[settings.tracker](settings, folder, config))


def _printable(cell: Any) -> Any:
    return printable(cell) if isinstance(cell, str) else cell


def _mode(asked: str) -> str:
    """Return where W&B's figures go: online, offline or disabled. WANDB_MODE has a say where track.mode=auto alone."""
    if asked != "auto":
        return asked
    variable = os.environ.get("WANDB_MODE")
    return MODES[variable] if variable is not None else "online" if private.has_wandb_key() else "offline"
