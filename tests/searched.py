"""A search of recipes on the pico family, nine evaluations long."""

from pathlib import Path

from tests.conftest import run
from tests.family import FOUNDERS, TASKS


def search(family: Path, outputs: Path, *overrides: str) -> Path:
    """Run it in the front door; the run's folder."""
    models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)
    outcome = run(
        "strategy=recipe_search",
        "founders=local",
        f"founders.base={family / 'base'}",
        f"founders.models={{{models}}}",
        f"evaluate.tasks=[{','.join(TASKS)}]",
        f"evaluate.include={family / 'tasks'}",
        "evaluate.holdout=null",
        f"outputs={outputs}",
        "name=run",
        "track=none",
        "cache=off",
        "workers.threads=1",
        "stop.evaluations=9",
        "stop.gain=null",
        *overrides,
    )
    assert outcome.status == 0, outcome.err
    return outputs / "run"
