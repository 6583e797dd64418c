"""Within a run that is a trial: is it hopeless beside the other trials of its study?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from src.config import Sweep
from src.runtime.terminal import warn

if TYPE_CHECKING:
    import optuna

HOPELESS = "hopeless"
"""First word of the stop reason of a trial that was cut short."""

Verdict = Callable[[float, int], str | None]
"""Why a run with this best average after this generation should end; None to go on."""


def of(sweep: Sweep | None) -> Verdict:
    """Return the verdict on a run: its study's, if it is a trial of one that cuts trials short."""
    if sweep is None or sweep.trial is None or sweep.prune is None:
        return lambda best, generation: None
    return _Study(sweep)


class _Study:
    """Trials that report their best average after every generation. A study out of reach costs a line, not the run."""

    def __init__(self, sweep: Sweep) -> None:
        """Compare with the trials of the study that `sweep.trial` belongs to."""
        self._sweep = sweep
        self._lost = False

    def __call__(self, best: float, generation: int) -> str | None:
        """Report the average, and compare it with what the others had after the same generation."""
        if self._lost:
            return None
        try:
            return self._compared(best, generation)
        except Exception as error:  # of SQLAlchemy and of any database's driver
            self._lost = True
            warn(f"the study was not reached ({type(error).__name__}); this trial is not compared")
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
