"""Registration of the sweeper with Hydra: Hydra's Optuna plugin, with another study behind it."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper


class StudySweeper(OptunaSweeper):
    """`hydra/sweeper=optuna` with all its keys; n_trials is the total wanted, however often the sweep is continued."""

    def __init__(self, **settings: Any) -> None:
        from src.study.sweep.study import StudySearch  # Optuna, which a run without a sweep need not wait for

        self.sweeper = StudySearch(**settings)


def register() -> None:
    """Register the sweeper with Hydra, which finds only installed plugins by itself."""
    Plugins.instance().register(StudySweeper)
