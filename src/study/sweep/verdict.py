"""Pruning: ends a run that is a trial and falls behind the other trials of its study."""

from __future__ import annotations

from collections.abc import Callable

from src.config import Sweep
from src.runtime.terminal import warn

HOPELESS = "hopeless"
"""First word of the stop reason of a trial that was cut short."""

Verdict = Callable[[float, int], str | None]
"""Why a run with this best average after this generation should end; None to go on."""


def of(sweep: Sweep | None) -> Verdict:
    """Return the rule that prunes a run: its study's, if it is a trial of one that prunes."""
    if sweep is None or sweep.trial is None or sweep.prune is None:
        return lambda best, generation: None
    return _Study(sweep)


class _Study:
    """Trials that report their best average after every generation. A study out of reach costs a line, not the run."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._lost = False

    def __call__(self, best: float, generation: int) -> str | None:
        """Report the average, and compare it with what the others had after the same generation."""
        if self._lost:
            return None
        try:
            return self._compare(best, generation)
        except Exception as error:  # of SQLAlchemy and of any database's driver
            self._lost = True
            warn(f"the study was not reached ({type(error).__name__}); this trial is not compared")
            return None

    def _compare(self, best: float, generation: int) -> str | None:
        import optuna

        from src.study.sweep.storage import trial_id

        place, prune = self._sweep.trial, self._sweep.prune
        assert place is not None
        assert prune is not None
        storage = optuna.storages.get_storage(place.storage)
        pruner = optuna.pruners.PercentilePruner(prune.keep, prune.startup, prune.warmup, n_min_trials=prune.startup)
        study = optuna.load_study(study_name=place.study, storage=storage, pruner=pruner)
        trial = optuna.Trial(study, trial_id(storage, place.study, place.number))
        trial.report(best, generation)
        if not trial.should_prune():
            return None
        ended = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        then = [other.intermediate_values[generation] for other in ended if generation in other.intermediate_values]
        better = sum(value > best for value in then)
        return (
            f"{HOPELESS}: after generation {generation} its best average was {best:.2f}; {better} of the {len(then)} "
            "trials that came to their end from there had a better one"
        )
