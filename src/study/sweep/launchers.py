"""Launchers that could begin no run here: submitit raises without Slurm, and Ray waits for ever for a GPU of none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.runtime.errors import UserError


def check(overrides: Sequence[str], conf: Path) -> None:
    """Refuse a command line whose launcher has no chance on this machine; what Hydra cannot compose is left to Hydra.

    Args:
        overrides: of the command line.
        conf: the configuration's folder.

    Raises:
        UserError: there is no Slurm, or less of a GPU or of cores than each run is to have.
    """
    about = [one for one in overrides if one.lstrip("+~").startswith(("hydra/launcher=", "hydra.launcher."))]
    if not any("hydra/launcher=" in one for one in about):
        return
    with suppress(HydraException, OmegaConfBaseException), initialize_config_dir(str(conf)):
        launcher = compose("config", about, return_hydra_config=True).hydra.launcher
        _check_slurm(launcher)
        _check_ray(launcher)


def _check_slurm(launcher: DictConfig) -> None:
    if launcher["_target_"].endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm: there is no srun here; expected a machine of a Slurm cluster. On this machine alone "
            "hydra/launcher=joblib and hydra/launcher=submitit_local run trials side by side"
        )


def _check_ray(launcher: DictConfig) -> None:
    if not launcher["_target_"].endswith(".RayLauncher") or launcher.ray.init.get("address") is not None:
        return
    wanted = {kind: launcher.ray.remote.get(kind) or 0 for kind in ("num_gpus", "num_cpus")}
    here = {kind: launcher.ray.init.get(kind) for kind in wanted}
    if here["num_cpus"] is None:
        here["num_cpus"] = os.cpu_count() or 1
    if here["num_gpus"] is None and wanted["num_gpus"]:
        import torch

        here["num_gpus"] = torch.cuda.device_count()
    for kind, number in wanted.items():
        if number > (here[kind] or 0):
            raise UserError(
                f"hydra.launcher.ray.remote.{kind} is {number}, which every run is to have, and there are "
                f"{here[kind]} here: Ray would wait for ever; give at most {here[kind]}"
            )
