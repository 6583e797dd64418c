"""The front door: `python -m src.run strategy=kinship_topk`. --help tells more, dry_run=true prints the plan."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src import config, launch
from src.config import Settings
from src.errors import UserError
from src.interruption import Interrupted, interruptible
from src.sweep import plugin

COURTESY = 3.0
"""Seconds that another process lets the main one speak first."""


def run(settings: Settings) -> dict[str, float]:
    """Evolve the founders until a stop rule holds; the best average, in points, and what it took.

    Raises:
        UserError: bad input, found before any work.
    """
    launch.check()
    from src import founders, plan, publish, track  # reads headers, no weights; what is heavy waits
    from src.evaluate import benchmark
    from src.terminal import warn

    publish.check(settings.publish)
    if not launch.rank():  # the only one that tracks: the others may have no key
        track.check(settings.track)
    found = founders.look(settings)
    founders.check(settings, found)
    if settings.dry_run:
        plan.show(settings, found)
        return {}
    from src.evolution import Evolution
    from src.workers import Workers

    given = founders.bring(settings)
    with Workers(settings.workers) as workers, closing(Evolution(settings, workers, *given)) as evolution:
        if evolution.finished:
            print(f"the run {settings.name} has finished already; a new one needs another name=…")
            evolution.follow_up()
        else:
            if warning := benchmark.warning(settings.evaluate.model_dump()):
                warn(warning)
            evolution.introduce()
            while evolution.goes_on():
                evolution.breed()
                evolution.keep()
                evolution.measure()
                evolution.end_generation()
            evolution.hold_out()
            evolution.finish()
        evolution.publish()
        return evolution.report()


@hydra.main(config_path=str(Path(__file__).parent.parent / "conf"), config_name="config")
def _job(composed: DictConfig) -> float | list[float]:
    advice = "interrupted; the same command goes on from here (a finished merge or evaluation is not repeated)"
    try:
        with interruptible(advice):
            settings = config.read(composed)
            figures = run(settings)
            wanted = settings.sweep.objectives if settings.sweep else ("best",)
            found = [figures.get(objective, 0.0) for objective in wanted]
            return found if len(found) > 1 else found[0]
    except UserError as error:
        if _is_one_of_many():
            _refuse(f"{composed.get('name')}: {error}")
            raise  # the end of this run, not of the others
        _refuse(str(error))
        raise SystemExit(2) from None
    except Exception:
        if _is_one_of_many():
            traceback.print_exc()
        raise
    except Interrupted as interruption:
        if interruption.cause is not None:
            print(f"error: {interruption.cause}", file=sys.__stderr__, flush=True)
        print(f"\n{advice}", file=sys.stderr, flush=True)
        os._exit(interruption.status)  # libraries' own farewells may take longer than the two seconds that are promised


def main() -> None:
    """Compose the configuration and run; a user's mistake costs a line and exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its complaints instead of printing them its own way
    # OpenMP's threads spin while they wait; next to any other busy process that made an evaluation ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would print stacks when a process is lost
    plugin.register()
    try:
        _check_options()
        with _muted() if launch.rank() else nullcontext():
            _job()
    except Interrupted as interruption:  # between two runs of a sweep
        os._exit(interruption.status)
    except UserError as error:
        _refuse(str(error))
        sys.exit(2)
    except Exception as error:
        if not config.is_config_error(error):
            raise
        _refuse(config.explain(error))
        sys.exit(2)


def _check_options() -> None:
    """Hydra would answer an option that it does not know with a screenful of those it does."""
    known, unknown = get_args_parser().parse_known_intermixed_args()
    if unknown:
        raise UserError(
            f"{unknown[0]}: no such option. Settings are given as KEY=VALUE; --help lists them and the options."
        )
    config.check_sweeps(known.overrides)


def _is_one_of_many() -> bool:
    """Whether Hydra runs this as one job of a multirun: a single run has no number."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if launch.rank():
        time.sleep(COURTESY)  # the main process finds the same mistake, and a launcher ends all with the first


@contextmanager
def _muted() -> Iterator[None]:
    """Of several processes only the first prints; tracebacks of all are shown."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


if __name__ == "__main__":
    main()
