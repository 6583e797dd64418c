"""Hydra's launchers for clusters, on this machine alone: trials side by side as submitit's jobs, and as Ray's."""

from pathlib import Path

import pytest

from src.journal import run_state
from tests.conftest import run
from tests.family import FOUNDERS
from tests.sweep.test_sweep import Sweep, folders, states, sweep  # noqa: F401

LAUNCHERS = [
    ("slurm", "hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    (
        "ray",
        "hydra_plugins.hydra_ray_launcher",
        [
            "hydra/launcher=ray_machine",
            "hydra.launcher.ray.remote.num_gpus=0",
            "hydra.launcher.ray.remote.num_cpus=1",
            "+hydra.launcher.ray.init.num_cpus=2",
        ],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "plugin", "launcher"), LAUNCHERS, ids=["submitit", "ray"])
def test_trials_are_jobs_of_a_launcher(
    sweep: Sweep,  # noqa: F811
    tmp_path: Path,
    extra: str,
    plugin: str,
    launcher: list[str],
) -> None:
    pytest.importorskip(plugin, reason=f"the extra `{extra}` is not installed")
    outcome = sweep(*launcher, "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4")
    assert outcome.status == 0, outcome.err
    assert "the study study has 4 trials: 4 came to their end" in outcome.out
    assert states(tmp_path) == ["COMPLETE"] * 4
    assert folders(tmp_path) == [0, 1, 2, 3]
    found = [run_state(tmp_path / f"outputs/sweeps/study/{number}") for number in range(4)]
    assert all(state is not None and state.stopped is not None for state in found)
    assert sum(state.known["evaluated"] for state in found[2:] if state) >= 2 * len(FOUNDERS)  # by the first two


@pytest.mark.parametrize(
    ("extra", "plugin", "given", "told"),
    [
        ("slurm", "submitit", ["hydra/launcher=slurm"], "there is no srun here"),
        ("ray", "ray", ["hydra/launcher=ray_machine", "+hydra.launcher.ray.init.num_gpus=0"], "num_gpus is 1"),
        (
            "ray",
            "ray",
            [
                "hydra/launcher=ray_machine",
                "hydra.launcher.ray.remote.num_gpus=0",
                "+hydra.launcher.ray.init.num_cpus=2",
            ],
            "num_cpus is 4, which every run is to have, and there are 2 here",
        ),
    ],
)
@pytest.mark.parametrize("search", [True, False])
def test_a_launcher_that_could_begin_no_run_here_is_refused_at_once(
    sweep: Sweep,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    plugin: str,
    given: list[str],
    told: str,
    search: bool,
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"the extra `{extra}` is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))  # nor is there Slurm where the tests run
    outcome = sweep(*given) if search else run("-m", "strategy=kinship_topk", "strategy.k=2,3", *given)
    assert (outcome.status, outcome.err.count("error: ")) == (2, 1), outcome.err
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "outputs/sweeps").exists()


def test_a_password_that_submitit_would_write_to_a_file_is_refused(sweep: Sweep, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra `slurm` is not installed")
    outcome = sweep("hydra/launcher=submitit_local", "hydra.sweeper.storage='postgresql://me:secret@127.0.0.1:9/x'")
    assert outcome.status == 2
    assert "postgresql://me:***@127.0.0.1:9/x" in outcome.err
    assert "by ~/.pgpass or PGPASSWORD" in outcome.err
    assert "secret" not in outcome.err
    assert not (tmp_path / "outputs/sweeps").exists()
