"""Where the figures of a run are sent: the only place that knows W&B. Write-only; nothing is ever read back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState

from src.config import Track, flat

Row = Sequence[str | float | int | None]


class Tracker(Protocol):
    """What every tracker does. An absent one has the same methods and does nothing."""

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """The figures of one generation."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """A table, as it stands after this generation."""

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
        self._tracker = WandBTracker(
            settings.project,
            name=folder.name,
            # The same folder is the same run on the server, however often it was interrupted.
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            group=settings.group,
            dir=str(folder),
            mode=_mode(settings.mode),
            # Offline files are flushed every 15 s otherwise, and a killed run would lose the last of them.
            settings=wandb.Settings(silent=True, x_transaction_log_flush_interval=1.0, init_timeout=30),
        )
        self._tracker.start()
        self._tracker.store_init_configuration(dict(config))
        self._run = self._tracker.tracker
        self._run.define_metric("generation", hidden=True)
        self._run.define_metric("*", step_metric="generation")

    def log(self, values: Mapping[str, float], generation: int) -> None:
        """The figures of one generation."""
        self._tracker.log({**values, "generation": generation})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], generation: int) -> None:
        """A table, as it stands after this generation."""
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._tracker.log({name: table, "generation": generation})

    def summary(self, values: Mapping[str, float | str]) -> None:
        """How the run ended."""
        self._run.summary.update(dict(values))

    def artifact(self, path: Path, kind: str) -> None:
        """A file worth keeping."""
        artifact = self._wandb.Artifact(f"{path.stem}-{self._run.id}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Flush and close."""
        self._tracker.finish()


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
        text = "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)
        self._tracker.log({name: text}, step=generation)

    def summary(self, values: Mapping[str, float | str]) -> None:
        """How the run ended."""
        self._tracker.log({f"summary/{key}": value for key, value in values.items()}, step=self._generation)

    def artifact(self, path: Path, kind: str) -> None:
        """The file's text: TensorBoard keeps no files."""
        self._tracker.log({f"{kind}/{path.name}": f"```\n{path.read_text()}\n```"}, step=self._generation)

    def finish(self) -> None:
        """Flush and close."""
        self._tracker.finish()


TRACKERS = {"wandb": WandB, "tensorboard": TensorBoard, "none": NoTracker}


def start(settings: Track, folder: Path, config: Mapping[str, Any], *, main: bool = True) -> Tracker:
    """The tracker that the settings ask for; only the main process has one.

    Args:
        settings: which tracker, and its project and group.
        folder: the run's folder; its name is the run's.
        config: the run's settings, as plain nested data.
        main: whether this is the main process.
    """
    if settings.tracker == "none" or not main:
        return NoTracker()
    PartialState()  # accelerate's trackers ask it which process they are in
    return TRACKERS[settings.tracker](settings, folder, config)


def _mode(mode: str) -> str:
    if mode != "auto":
        return mode
    return os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")


def _has_key() -> bool:
    """Whether W&B would find an API key, in the environment or in the netrc file that `wandb login` writes."""
    from requests.utils import get_netrc_auth

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(host))
