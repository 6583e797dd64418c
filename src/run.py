"""The front door: `python -m src.run strategy=kinship_topk`. --help tells more, dry_run=true prints the plan."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from src import config
from src.config import Settings
from src.errors import UserError


def run(settings: Settings) -> float:
    """Evolve the founders until a stop rule holds; the best average, in points.

    Raises:
        UserError: bad input, found before any work.
    """
    from src import founders, plan  # reads headers, no weights; what is heavy waits until these are sound

    found = founders.look(settings)
    founders.check(settings, found)
    if settings.dry_run:
        plan.show(settings, found)
        return 0.0
    from src.evolution import Evolution

    evolution = Evolution(settings, *founders.bring(settings))
    if evolution.finished:
        print(f"the run {settings.name} has finished already; a new one needs another name=…")
        return evolution.report()
    evolution.introduce()
    while evolution.goes_on():
        evolution.merge()
        evolution.measure()
        evolution.evaluate()
        evolution.close()
    evolution.finish()
    return evolution.report()


@hydra.main(config_path=str(Path(__file__).parent.parent / "conf"), config_name="config")
def _job(composed: DictConfig) -> float:
    try:
        return run(config.read(composed))
    except UserError as error:
        _refuse(str(error))
        raise SystemExit(2) from None


def main() -> None:
    """Compose the configuration and run; a user's mistake costs a line and exit status 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its complaints instead of printing them its own way
    try:
        _job()
    except Exception as error:
        if not config.is_config_error(error):
            raise
        _refuse(config.explain(error))
        sys.exit(2)


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
