"""What Hydra's Optuna plugin keeps to itself and this room needs, all in one place.

OptunaSweeperImpl             what `hydra/sweeper=optuna` constructs: keeps the settings, sets up the launcher
create_params_from_overrides  the plugin's own reading of choice(…), range(…) and interval(…) into distributions;
                              a search that read them differently would not be the plugin's

tests/sweep/test_private.py names the versions that this was written for.
"""

from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides

__all__ = ["OptunaSweeperImpl", "create_params_from_overrides"]
