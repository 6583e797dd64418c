"""The front door: `python -m src.run strategy=kinship_topk`. --help tells more, dry_run=true prints the plan."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src import config
from src.config import Settings
from src.runtime import grid, launch, log, private, validation
from src.runtime.errors import FruitlessError, MachineError, UserError, in_words, machine_fault
from src.runtime.heartbeat import COURTESY
from src.runtime.signals import Interrupted, interruptible
from src.study.sweep import launchers, plugin

if TYPE_CHECKING:
    from src.evaluation.evaluator import Evaluator
    from src.evolution import Evolution
    from src.models.founders import Found

CONF = Path(__file__).parent.parent / "conf"
"""The configuration's folder."""


def run(settings: Settings) -> dict[str, float]:
    """Evolve the founders until a stop rule holds; return the best average, in points, and what it took.

    Raises:
        UserError: bad input, found before any work.
        FruitlessError: the run has come to its end, now or earlier, and no merge worked.
    """
    launch.check()
    from src import learning, plan, zoo
    from src.evaluation import benchmarks
    from src.models import founders
    from src.runtime.terminal import warn
    from src.study.sweep import verdict

    found, evaluator = _check(settings)
    if settings.dry_run:
        plan.show(settings, found, evaluator, learning.plan(settings, found, evaluator))
        return {}
    if settings.uses_zoo:
        zoo.prepare(settings.zoo.folder, settings.zoo.seed, settings.zoo.effort)
    given = founders.bring(settings)
    if settings.evaluate.apply_chat_template and any(one.checkpoint is None for one in found.values()):
        from src.evaluation import chat

        chat.check(settings, founders.look(settings))
    from src.evolution import Evolution
    from src.runtime.workers import Workers

    with (
        Workers(**settings.workers.model_dump()) as workers,
        closing(
            Evolution(settings, workers, *given, verdict.of(settings.sweep), learning.learner(settings))
        ) as evolution,
    ):
        if workers.main:
            log.keep_in(evolution.folder)
        if evolution.finished:
            print(f"the run {settings.name} has finished already; a new one needs another name=…")
            if workers.main and not page_of(evolution).exists():  # a start was killed after its last event
                _conclude(evolution)
        else:
            if warning := benchmarks.warning(settings.evaluate.model_dump()):
                warn(warning)
            evolve(evolution)
            _conclude(evolution)
        return _hand_over(evolution, workers.main)


def _check(settings: Settings) -> tuple[Mapping[str, Found], Evaluator | None]:
    """Refuse what can be seen without any weights; return the founders, as far as they are here, and the questions."""
    from src import kinship, plan, start  # reads headers, no weights; what is heavy waits
    from src.export import upload
    from src.models import founders
    from src.report import page
    from src.tracking import trackers

    upload.check(settings.publish)
    if not launch.rank():  # the only one that tracks: the others may have no key
        trackers.check(settings.track)
    kinship.metric_of(settings.kinship.metric)
    if settings.figures:
        page.check(settings.figures)
    if not (settings.folder / "journal.jsonl").exists():  # a run that goes on may do without
        start.earlier(settings)
    found = founders.look(settings)
    founders.check(settings, found)
    from src.evaluation import chat, tasks

    try_out = settings.dry_run or any(one.checkpoint is None for one in found.values())
    evaluator = tasks.check(settings, try_out=try_out, devices=plan.devices(settings) if settings.dry_run else ("cpu",))
    chat.check(settings, found)
    return found, evaluator


def evolve(evolution: Evolution) -> None:
    """Go through the whole evolution, from wherever its journal says it is, and export the winner."""
    from src.export.winner import export

    evolution.evaluate_founders()
    evolution.run_generation()  # one that an interruption left open
    while proposals := evolution.propose():
        evolution.run_generation(proposals)
    evolution.evaluate_finalists()
    evolution.evaluate_holdout()
    evolution.finish(
        lambda folder: export(folder, evolution.state, evolution.kinship, evolution.store, evolution.given)
    )


def page_of(evolution: Evolution) -> Path:
    """Return where the page of a run lies."""
    from src.report import page

    return evolution.folder / page.NAME


def _conclude(evolution: Evolution) -> None:
    from src.report import page

    evolution.conclude(lambda: page.present(evolution.folder, evolution.tracker))


def _hand_over(evolution: Evolution, main: bool) -> dict[str, float]:
    """Upload the winner, if that was asked for, and say how the run ended; return its figures."""
    from src.export import upload
    from src.tracking import summary

    best, publish = evolution.folder / "best", evolution.settings.publish
    why = evolution.fruitless
    if main and why is None and publish.repo_id is not None:
        upload.upload(best, publish)
    summary.show(evolution.state, [best, page_of(evolution)])
    if why is not None:
        raise FruitlessError(why)
    return summary.figures(evolution.state)


@hydra.main(config_path=str(CONF), config_name="config")
def _job(composed: DictConfig) -> float | list[float]:
    with log.copying():
        return _run(composed)


def _run(composed: DictConfig) -> float | list[float]:
    advice = "interrupted; the same command goes on from here (a finished merge or evaluation is not repeated)"
    try:
        with interruptible(advice):
            grid.name_apart(composed)
            settings = config.read(composed)
            figures = run(settings)
            wanted = settings.sweep.objectives if settings.sweep else ("best",)
            found = [figures.get(objective, 0.0) for objective in wanted]
            return found if len(found) > 1 else found[0]
    except Exception as error:
        _end(error, composed.get("name"))
        raise  # of several runs, this one's end alone
    except Interrupted as interruption:
        if interruption.cause is not None:
            print(f"error: {interruption.cause}", file=sys.__stderr__, flush=True)
        print(f"\n{advice}", file=sys.stderr, flush=True)
        os._exit(interruption.status)  # libraries' exit handlers may take longer than what is promised


def _end(error: Exception, name: str) -> None:
    """Say why a run cannot go on, and end the process unless others are to follow.

    Raises:
        MachineError: others were to follow, but the machine failed; for the sweeper, which says it and ends.
    """
    several, words = _is_one_of_many(), in_words(error)
    if words is None:
        if several:
            traceback.print_exc()
        return
    status, message = words
    machines = machine_fault(error) is not None
    if machines:
        message += "; the same command goes on from here"
    if not several:
        _refuse(message)
        raise SystemExit(status) from None
    if machines:
        raise MachineError(f"{name}: {message}") from error
    _refuse(f"{name}: {message}")


def main() -> None:
    """Compose the configuration and run; a user's mistake costs a line and exit status 2, the machine's status 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its complaints instead of printing them its own way
    prepare()
    try:
        _check_options()
        with _muted() if launch.rank() else nullcontext():
            _job()
    except Interrupted as interruption:  # between two runs of a sweep
        os._exit(interruption.status)
    except Exception as error:
        told = in_words(error) or ((2, validation.explain(error)) if validation.is_config_error(error) else None)
        if told is None:
            raise
        _refuse(told[1])
        sys.exit(told[0])


def prepare() -> None:
    """Tell libraries that were not imported yet how to behave, and Hydra of the sweeper."""
    # OpenMP's threads spin while they wait; next to any other busy process that made an evaluation ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would print stacks when a process is lost
    plugin.register()


def _check_options() -> None:
    """Refuse what Hydra would answer with a screenful or not at all; tell it what all runs of a grid have in common."""
    known, unknown = private.get_args_parser().parse_known_intermixed_args()
    if unknown:
        raise UserError(
            f"{unknown[0]}: no such option. Settings are given as KEY=VALUE; --help lists them and the options."
        )
    if known.shell_completion and "-m" in sys.orig_argv:
        raise UserError("--shell-completion: Hydra completes the words of `python FILE.py`, not of `python -m MODULE`")
    validation.check_sweeps(known.overrides)
    launchers.check(known.overrides, CONF)
    sys.argv = [*sys.argv, grid.constants(known.overrides)]


def _is_one_of_many() -> bool:
    """Return whether Hydra runs this as one job of a multirun: a single run has no number."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if launch.rank():
        time.sleep(COURTESY)  # the main process finds the same mistake, and a launcher ends all with the first


@contextmanager
def _muted() -> Iterator[None]:
    """Mute this process: of several only the first prints; tracebacks of all are shown."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


if __name__ == "__main__":
    main()
