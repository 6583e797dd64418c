"""Within a run that is a trial: is it hopeless beside the other trials of its study?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from src.study.sweep.settings import Sweep

if TYPE_CHECKING:
    import optuna

HOPELESS = "hopeless"
"""First word of the stop reason of a trial that was cut short."""


class Rivals(Protocol):
    """The other trials of a study."""

    def reason(self, best: float, generation: int) -> str | None:
        """Why a run with this best average after this generation should end; None to go on."""


class NoRivals:
    """A run on its own."""

    def reason(self, best: float, generation: int) -> str | None:
        """None: there is nobody to compare with."""
        return None


class Study:
    """Trials that report their best average after every generation. A study out of reach costs a line, not the run."""

    def __init__(self, sweep: Sweep) -> None:
        """Compare with the trials of the study that `sweep.trial` belongs to."""
        self._sweep = sweep
        self._lost = False

    def reason(self, best: float, generation: int) -> str | None:
        """Report, and compare with what the others had after the same generation."""
        if self._lost:
            return None
        try:
            return self._compared(best, generation)
        except Exception as error:  # of SQLAlchemy and of any database's driver
            self._lost = True
            print(
                f"warning: the study was not reached ({type(error).__name__}); this trial is not compared",
                file=sys.stderr,
            )
            return None

    def _compared(self, best: float, generation: int) -> str | None:
        import optuna

        trial, prune = self._trial, self._sweep.prune
        assert prune is not None
        trial.report(best, generation)
        trial.study.pruner = optuna.pruners.PercentilePruner(
            prune.keep, prune.startup, prune.warmup, n_min_trials=prune.startup
        )
        if not trial.should_prune():
            return None
        ended = trial.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        then = [other.intermediate_values[generation] for other in ended if generation in other.intermediate_values]
        better = sum(value > best for value in then)
        return (
            f"{HOPELESS}: after generation {generation} its best average was {best:.2f}; {better} of the {len(then)} "
            "trials that came to their end from there had a better one"
        )

    @property
    def _trial(self) -> optuna.Trial:
        import optuna

        place = self._sweep.trial
        assert place is not None
        study = optuna.load_study(study_name=place.study, storage=place.storage)
        return optuna.Trial(study, study.get_trials(deepcopy=False)[place.number]._trial_id)


def of(sweep: Sweep | None) -> Rivals:
    """The rivals of a run: those of its study, if it is a trial of one that cuts trials short."""
    return Study(sweep) if sweep is not None and sweep.trial is not None and sweep.prune is not None else NoRivals()
