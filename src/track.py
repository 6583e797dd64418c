"""Send runs to a tracker again, or for the first time, from their journals: `python -m src.track outputs/NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.runtime.command import Parser, add_trust, status
from src.runtime.errors import MachineError, UserError

# Everything that computes is imported where it is first needed: --help and a mistyped option must answer at once.

JOURNAL = "journal.jsonl"
DETAILS = """
RUN is a run's folder (outputs/NAME), finished or not, or a folder of runs (outputs/sweeps/strategy). What is sent is
what the run would have sent: every candidate, every generation, tables, figures, and where the winner lies. Online, a
run that W&B has already gets what it lacks at its end; nothing can be put in between: --anew sends it as another run.
Offline files and TensorBoard are written anew. Whatever is not given is as the run's own track=… has it; a run that was
begun with track=none goes to W&B.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 after one `error:` line or two on stderr."""
    parser = Parser(
        prog="python -m src.track",
        description="Send runs to W&B or TensorBoard from their journals: for the first time, or again.",
        epilog=DETAILS,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or a folder of runs")
    parser.add_argument("--tracker", choices=("wandb", "tensorboard"), help="where to send them")
    parser.add_argument("--project", help="the project that they are filed under")
    parser.add_argument("--group", help="show them together, under this name")
    parser.add_argument("--anew", action="store_true", help="send it as another run on W&B, not what that run lacks")
    parser.add_argument("--mode", choices=("auto", "online", "offline"), help="of W&B")
    add_trust(parser)
    options = parser.parse_args(arguments)
    return status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from src.runtime.files import in_use

    folders = [folder for path in options.runs for folder in _runs(path)]
    given = {key: value for key in ("tracker", "project", "group", "mode") if (value := getattr(options, key))}
    for folder in folders:
        if in_use(folder / JOURNAL):
            what = f"{folder} is under way, and sends what it finds itself; wait for its end"
            if len(folders) == 1:
                raise UserError(what)
            print(f"left out: {what}", file=sys.stderr)
            continue
        print(send(folder, given, anew=options.anew), flush=True)


def _runs(path: Path) -> list[Path]:
    """Return the run in a folder, or those below it.

    Raises:
        UserError: there is none.
    """
    found = [path] if (path / JOURNAL).is_file() else sorted(file.parent for file in path.rglob(JOURNAL))
    if not found:
        raise UserError(f"{path}: no run lies there (a run's folder has a {JOURNAL}); expected outputs/NAME")
    return found


def send(folder: Path, given: Mapping[str, str], *, anew: bool = False) -> str:
    """Send a run with `given` keys of conf/track in place of its own; return in words what was sent, and where.

    With `anew` it becomes another run on W&B, beside the one that is there.

    Raises:
        UserError: no run, a damaged journal, nothing evaluated yet, or a tracker that cannot be had.
        MachineError: the tracker did not take all of it.
    """
    from src.config import Track
    from src.journal import events_of, replay
    from src.report import page
    from src.tracking import sender, trackers
    from src.tracking.private import first_line

    events = events_of(folder)
    state = replay(events)
    if not state.population.eligible():
        raise UserError(f"{folder}: nothing has been evaluated yet; there is nothing to send")
    own = (state.started or {})["settings"].get("track") or {}
    if own.get("tracker", "none") == "none":
        own = {**own, "tracker": "wandb"}
    track = Track.model_validate({"project": "kinmerge", "group": None, "mode": "auto", **own, **given})
    trackers.check(track)
    if trackers.is_off(track):
        raise UserError("WANDB_MODE is disabled, so nothing would be sent; unset it")
    figures = page.figures(page.sections(page.load(folder)))
    try:
        sending = sender.start(track, folder.resolve(), events, guarded=False, anew=anew)
        sending.catch_up()
        sending.model(folder.resolve() / "best")
        sending.figures(figures)
        sending.finish()
    except UserError:
        raise
    except Exception as error:  # whatever a tracker may raise
        raise MachineError(
            f"{folder} was not sent as a whole ({first_line(error)}); the same command begins anew"
        ) from error
    return f"{folder}: {sending.words}"


if __name__ == "__main__":
    sys.exit(main())
