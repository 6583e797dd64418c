"""From Python: evolve in a notebook or a script, and read what a run found. `import kinmerge` has all of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import open_dict

from src import config, run
from src.config import Settings
from src.population import KinshipTable, Model
from src.report import page
from src.report.run_data import RunData
from src.runtime import log, plugins, provenance, validation
from src.runtime.errors import UserError
from src.tracking import summary, table

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

_KEY = re.compile(r"[+~]{0,2}[\w./@]+")


def evolve(*overrides: str, **settings: Any) -> Run:
    """Evolve the founders until a stop rule holds, as `python -m src.run` does; go on where an earlier call ended.

    Args:
        overrides: as on the command line: "strategy=kinship_topk", "stop.generations=2".
        settings: the same by keyword, with __ for a dot and Python's own values: strategy="kinship_topk",
            stop__generations=2, founders__models={"math": "A", "code": "B"}. They come after the overrides.

    Raises:
        UserError: bad input, found before any work.
        FruitlessError: the run has come to its end, now or earlier, and no merge worked.
        MachineError: the machine failed; the same call goes on from there.
        KeyboardInterrupt: likewise; nothing finished is lost.
    """
    with _composed(overrides, settings) as found:
        if found.dry_run:
            raise UserError("dry_run=true evolves nothing that could be returned; kinmerge.plan(…) prints the plan")
        with log.copying():
            run.run(found)
        return Run(Path(found.outputs) / found.name, trust=found.figures)


def plan(*overrides: str, **settings: Any) -> None:
    """Print what `evolve` would do with the same arguments, and do nothing of it.

    Raises:
        UserError: bad input.
    """
    with _composed(overrides, {**settings, "dry_run": True}) as found:
        run.run(found)


class Run:
    """A run, finished or not, as its folder tells when this is made; nothing is computed again.

    Args:
        path: the run's folder, outputs/NAME.
        trust: dotted paths that the run names and whose code may be executed: of a metric, a figure, …

    Raises:
        UserError: no run there, a damaged journal, or nothing evaluated yet.
    """

    def __init__(self, path: str | os.PathLike[str], *, trust: Sequence[str] = ()) -> None:
        plugins.trust(*trust)
        self.folder = Path(path)
        self.data: RunData = page.load(self.folder)
        """All that the run's page is made from: events, state, Gram matrices, scores of single samples."""

    @property
    def models(self) -> list[Model]:
        """All models, founders and failed candidates included, oldest first."""
        return list(self.data.population)

    @property
    def winner(self) -> Model:
        """The best model; of a run that has ended its checkpoint lies in `best`."""
        return self.data.winner

    @property
    def best(self) -> Path:
        """The folder of the winner's checkpoint, which is there once the run has ended."""
        return self.folder / "best"

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores of every evaluated model by task, in points, on the samples that steered."""
        return {model.name: dict(model.scores) for model in self.data.population.eligible()}

    @property
    def holdout(self) -> dict[str, dict[str, float]]:
        """The same of the winner and the founders on what was held out; {} where nothing was, or not yet scored."""
        return {name: dict(found.scores) for name, found in self.data.state.holdout.items()}

    @property
    def kinship(self) -> KinshipTable:
        """Kinship under the run's metric: `between("A", "B")`, `mean(["A", "B", "C"])`."""
        return self.data.kinship

    @property
    def stopped(self) -> str | None:
        """Why the run ended; None while it has not."""
        return self.data.state.stopped

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the run's page by name, in light colours."""
        return page.figures(page.sections(self.data))

    def to_pandas(self) -> DataFrame:
        """Return a row for each model, oldest first, by its name.

        Columns: generation, parents, average, stderr, gain, kinship (of the parents), holdout (the average there),
        failure, and the score of every task by the task's name; points, NaN where there is none.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        from pandas import DataFrame

        state = self.data.state
        found = []
        for model, row in zip(self.models, table.rows(state.population, self.kinship), strict=True):
            known = dict(zip(table.COLUMNS, row, strict=True))
            more = {
                "generation": model.generation,
                "parents": model.parents,
                "holdout": state.holdout[model.name].average if model.name in state.holdout else None,
                "failure": model.failure,
            }
            found.append({**known, **more, **model.scores})
        order = ["generation", "parents", "average", "stderr", "gain", "kinship", "holdout", "failure"]
        tasks = dict.fromkeys(task for model in self.models for task in model.scores)
        frame = DataFrame(found).set_index("model")[[*order, *tasks]]
        numbers = ["average", "stderr", "gain", "kinship", "holdout", *tasks]
        return frame.astype(dict.fromkeys(numbers, float))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})\n{summary.text(self.data.state)}"


@contextmanager
def _composed(overrides: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Settings]:
    """Compose and validate the settings; Hydra is left as it was found, in case that this is a program of its own."""
    words = [*overrides, *(f"{key.replace('__', '.')}={_spelled(value)}" for key, value in settings.items())]
    for word in words:
        if not _KEY.fullmatch(word.partition("=")[0]):
            raise UserError(f"{word}: expected KEY=VALUE; options, and -m with its sweeps, are the command line's")
    run.prepare()
    hydra, chosen = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(run.CONF), job_name=provenance.FROM_PYTHON):
            composed = compose("config", words, return_hydra_config=True)
            HydraConfig.instance().set_config(composed)
            with open_dict(composed):
                whole = composed.copy()
                del whole["hydra"]
            found = config.read(whole)
        if found.sweep is not None:
            raise UserError("+sweep=… is for many runs; the command line begins them: kinmerge -m …")
        yield found
    except Exception as error:
        if validation.is_config_error(error):
            raise UserError(validation.explain(error)) from error
        raise
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, chosen


def _spelled(value: Any) -> str:
    """Return a value as an override has it, text in quotes so that nothing in it counts as syntax."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelled(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple | range):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return QuotedString(str(value), Quote.single).with_quotes()
