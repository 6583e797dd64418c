"""Where the figures of a run are sent: W&B, TensorBoard, or nowhere. Write-only; nothing is ever read back."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Track, flat
from src.pages.markdown import fenced, plain
from src.pages.tables import Table
from src.runtime.errors import UserError, printable
from src.runtime.terminal import warn
from src.tracking import private
from src.tracking.about import About
from src.tracking.calls import BY_EVALUATION, BY_GENERATION, EVALUATIONS, GENERATION, Call, axis
from src.tracking.private import first_line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PATIENCE = 15
"""Seconds that W&B's server has to answer the first call."""

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may be, and what it comes to; `run` and `dryrun` are W&B's older names."""

FILES = ("README.md", "recipe.yaml", "LICENSE.md")
"""What of the winner's folder is sent itself; its weights stay where they are."""


class Tracker:
    """No tracking: every method does nothing. The trackers below replace those that they have a place for.

    Attributes:
        place: where it sends things, in words.
    """

    place = "nowhere"

    def send(self, call: Call) -> None:
        """Send what follows from one event; what has this step or a later one already is left as it is."""

    def figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Send interactive figures."""

    def model(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Send where the winner's weights lie, with its card and recipe."""

    def finish(self) -> None:
        """Flush and close."""


class WandB(Tracker):
    """Weights & Biases. A step is a line of the journal; numbers are drawn over evaluations or over generations."""

    def __init__(self, settings: Track, folder: Path, run: About) -> None:
        """Start a W&B run: online with an API key, else offline files in `folder`. Never a prompt.

        Online, a run that is there already goes on after its last step. Offline nobody knows what is there: each start
        writes all of the run, and removes what earlier ones wrote, unless that was synced.
        """
        import wandb

        self._wandb, self._folder = wandb, folder
        wandb.setup(wandb.Settings(silent=True))  # W&B asks for a key nowhere but on a terminal that it may write to
        mode = _mode(settings.mode)
        try:
            self._run = self._init(settings, mode, run)
        except wandb.errors.Error as error:
            if mode == "offline":
                raise
            warn(f"W&B could not be reached ({first_line(error)}); later: wandb sync {folder}/wandb/offline-run-*")
            wandb.teardown()  # its service would still hold the run's id
            self._run = self._init(settings, "offline", run)
        self._next = self._run.step if self._run.resumed else 0
        if self._run.offline:
            written = Path(self._run.dir).parent
            self.place = f"W&B, offline: wandb sync {os.path.relpath(written)}"
            _remove_superseded(written, run.id)
        else:
            self.place = f"W&B: {self._run.url}"
        self._run.config.update(dict(run.config), allow_val_change=True)
        for name, names in ((EVALUATIONS, BY_EVALUATION), (GENERATION, BY_GENERATION)):
            self._run.define_metric(name, hidden=name == GENERATION)
            for prefix in names:
                self._run.define_metric(f"{prefix}*", step_metric=name)

    def _init(self, settings: Track, mode: str, run: About) -> Any:
        with private.masked_command_line():
            return self._wandb.init(
                project=settings.project,
                name=run.name,
                id=run.id,
                resume=None if mode == "offline" else "allow",
                group=settings.group,
                job_type=run.job_type,
                tags=list(run.tags),
                dir=str(self._folder),
                mode=mode,  # type: ignore[arg-type]
                # Offline files are flushed every 15 s otherwise, and a killed run would lose the last of them.
                settings=self._wandb.Settings(silent=True, x_transaction_log_flush_interval=1.0, init_timeout=PATIENCE),
            )

    def send(self, call: Call) -> None:
        """Send what follows from one event."""
        if call.step >= self._next:
            tables = {name: self._table(table) for name, table in call.tables.items()}
            self._run.log({**call.numbers, **tables}, step=call.step, commit=True)
        if call.summary:
            self._run.summary.update({name: _printable(value) for name, value in call.summary.items()})

    def _table(self, table: Table) -> Any:
        rows = [list(map(_printable, row)) for row in table.rows]
        return self._wandb.Table(list(table.columns), rows, allow_mixed_types=True)

    def figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Send interactive figures, under figures/."""
        if step >= self._next:
            self._run.log({f"figures/{name}": figure for name, figure in figures.items()}, step=step, commit=True)

    def model(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Send a reference to the winner's weights, with its card and recipe, as an artifact."""
        artifact = self._wandb.Artifact(f"best-{self._run.id}", type="model", metadata=dict(about))
        for file in sorted(path for path in folder.absolute().rglob("*") if path.is_file()):
            # One by one: of a whole folder W&B says on the terminal that it is summing it, silent or not.
            artifact.add_reference(file.as_uri(), name=f"checkpoint/{file.relative_to(folder.absolute()).as_posix()}")
        for name in FILES:
            if (folder / name).is_file():
                artifact.add_file(str(folder / name))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """Flush and close; wait a minute, no longer, for a server that does not answer."""
        uploading = threading.Thread(target=self._run.finish, daemon=True)
        uploading.start()
        uploading.join(60)
        if uploading.is_alive():
            warn(f"W&B did not take the last figures within a minute; later: wandb sync {self._folder}/wandb/*run-*")


def _remove_superseded(written: Path, identity: str) -> None:
    """Remove offline files of a run that one with more in it has taken the place of, as far as they were not synced."""
    for old in written.parent.glob(f"offline-run-*-{identity}"):
        if old != written and not any(old.glob("*.synced")):
            shutil.rmtree(old, ignore_errors=True)


class TensorBoard(Tracker):
    """TensorBoard. It has neither tables nor files, so they are sent as text, and no interactive figures."""

    def __init__(self, settings: Track, folder: Path, run: About) -> None:
        """Start an event file in `folder`/tensorboard/PROJECT, in place of what earlier ones there have."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        where = folder / "tensorboard" / settings.project
        self.place = f"TensorBoard: tensorboard --logdir {os.path.relpath(where)}"
        self._writer = SummaryWriter(where, purge_step=0)
        events: Any = self._writer.file_writer
        searched = {key: value for key, value in flat(run.config).items() if not key.startswith(NO_HPARAMS)}
        for summary in hparams(searched, dict.fromkeys(HPARAM_METRICS, 0)):
            events.add_summary(summary)

    def send(self, call: Call) -> None:
        """Send the numbers that are drawn over this call's axis, tables as Markdown, and the result."""
        step = int(call.numbers[call.axis])
        for name, value in call.numbers.items():
            if axis(name) == call.axis and name != call.axis:
                self._writer.add_scalar(name, value, step)
        for name, table in call.tables.items():
            self._writer.add_text(name, table.markdown(), step)
        for name, result in call.summary.items():
            add = self._writer.add_text if isinstance(result, str) else self._writer.add_scalar
            add(f"summary/{name}", plain(result) if isinstance(result, str) else result, step)
        self._writer.flush()

    def model(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Send the winner's card and recipe as text."""
        for file in FILES:
            if (folder / file).is_file():
                self._writer.add_text(f"best/{file}", fenced((folder / file).read_text() + "\n", ""), 0)
        self._writer.flush()

    def finish(self) -> None:
        """Flush and close."""
        self._writer.close()


HPARAM_METRICS = ("candidate/best_so_far", "average/best", "summary/holdout/best", "summary/holdout/gain")
"""The numbers that TensorBoard's HParams has beside a run's settings."""
NO_HPARAMS = (
    *("name", "outputs", "keep", "trust_remote_code", "figures"),
    *("track.", "workers.", "cache.", "zoo.", "founders.", "evaluate.include", "start.", "versions."),
)
"""Beginnings of settings that say where and with what a run was made: HParams has a column for each of the others."""


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


def is_off(settings: Track) -> bool:
    """Return whether nothing is sent anywhere: by the settings, or by WANDB_MODE=disabled."""
    return settings.tracker == "none" or (settings.tracker == "wandb" and _mode(settings.mode) == "disabled")


def _printable(cell: Any) -> Any:
    return printable(cell) if isinstance(cell, str) else cell


def _mode(asked: str) -> str:
    """Return where W&B's figures go: online, offline or disabled. WANDB_MODE has a say where track.mode=auto alone."""
    if asked != "auto":
        return asked
    variable = os.environ.get("WANDB_MODE")
    return MODES[variable] if variable is not None else "online" if private.has_wandb_key() else "offline"
