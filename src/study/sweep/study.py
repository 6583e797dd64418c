"""The search: trials are drawn, run, recorded in the study, and resumed after a kill.

Hydra's own Optuna sweeper counts n_trials from the start of the command, numbers folders by jobs, draws the same points
again after a restart, leaves a killed trial running for ever and ends with the first failure. Here the study decides:
n_trials is the number of trials it shall have, a folder is named by the trial's number, what is drawn follows from how
many trials there are, a trial whose process is gone is run again, and a failed trial does not end the sweep.

Optuna's heartbeat would retry a killed trial under another number, and count both; here it keeps number and folder.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, Literal

import optuna
from hydra.core.utils import JobReturn
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from src import config
from src.config import DIRECTIONS, Settings, Trial
from src.journal import cache_savings, run_state
from src.runtime import place
from src.runtime.errors import FruitlessError, MachineError, UserError, machine_fault, printable
from src.runtime.files import in_use
from src.runtime.signals import interruptible
from src.study.sweep import storage
from src.study.sweep.private import OptunaSweeperImpl, create_params_from_overrides
from src.study.sweep.space import current_values, suggest
from src.study.sweep.storage import is_gone, locked, presence, trial_id
from src.study.sweep.verdict import HOPELESS

STARTS = 5
"""Starts after which a trial that always takes its process down with it counts as failed."""
NOT_COMPARED = {"sweep", "resume", "retry_failed", "dry_run", "publish", "name", "outputs"}
MAY_CHANGE = ("track.", "workers.", "cache.", "keep")
"""Settings that may change while a study goes on: they do not change how good a configuration is."""
ATTEMPTS = 100
"""Draws until a trial may repeat an earlier one."""
SAMPLED = 20
"""Of these, the sampler's own: a converged one may propose the same point for ever, and is then replaced by chance."""
FIXED_SEED = ("QMCSampler", "GridSampler", "BruteForceSampler")
"""Samplers that walk through a plan, which their seed decides: it must stay the same."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudySearch(OptunaSweeperImpl):
    """A search whose whole state is its study."""

    def __init__(self, *, sampler: DictConfig, n_trials: int, **settings: Any) -> None:
        super().__init__(sampler=None, n_trials=n_trials, **settings)
        self._sampler_settings = sampler

    def sweep(self, arguments: list[str]) -> None:
        """Bring the study to n_trials trials, and report on them.

        Raises:
            UserError: bad settings, or a study that was begun with other ones.
            MachineError: the study's database went away; no trial has failed.
        """
        assert self.config is not None
        settings = _checked(self.config)
        if settings.dry_run:
            print("dry_run is for a single run: the same command without -m shows the plan of the first trial")
            return
        assert settings.sweep is not None
        self._settings, self._sweep = settings, settings.sweep
        self._read_overrides([*(f"{key!s}={value}" for key, value in (self.params or {}).items()), *arguments])
        storage.check(self.storage, self.config.hydra.launcher["_target_"])
        place.check(settings.outputs, f"sweeps/{self.study_name}/0", settings.stores)
        self.folder = settings.outputs / "sweeps" / str(self.study_name)
        self.folder.mkdir(parents=True, exist_ok=True)
        advice = "interrupted; the same command goes on with this sweep (no finished trial is run again)"
        with presence(self.folder) as self._me, interruptible(advice):
            self._study = self._open()
            try:
                while trials := self._ask():
                    self._run(trials)
                self._report()
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                why = str(error.__cause__ or error).splitlines()[0]
                fault = f"the study's storage {self._where} was lost ({why}); the same command goes on"
                raise MachineError(fault) from error

    def _read_overrides(self, overrides: Sequence[str]) -> None:
        """Set what the overrides search, what they fix, and what they delete; what is fixed is not searched."""
        self._searched: dict[str, Any] = {}
        self._fixed: dict[str, Any] = {}
        self._deletions: list[str] = []
        for override in overrides:
            searched, fixed, deletions = _read(override)
            self._searched |= searched
            self._fixed |= fixed
            self._deletions += deletions
        for key in self._fixed:
            self._searched.pop(key, None)

    # --- the study ---------------------------------------------------------------------------------------------------

    @property
    def _directions(self) -> list[Literal["minimize", "maximize"]]:
        return [DIRECTIONS[objective] for objective in self._sweep.objectives]

    def _open(self) -> optuna.Study:
        try:
            self._storage = optuna.storages.get_storage(self.storage)
            study = optuna.create_study(
                study_name=self.study_name, storage=self._storage, directions=self._directions, load_if_exists=True
            )
        except Exception as error:  # of SQLAlchemy and of any database's driver
            why = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            missing = "; pip install '.[postgres]' brings PostgreSQL's" if isinstance(error, ImportError) else ""
            raise UserError(f"the study's storage {self._where} could not be opened ({why}){missing}") from error
        if not study.trials and any(path.name.isdigit() for path in self.folder.iterdir()):
            raise UserError(
                f"{self.folder} has runs of a study that is not in {self._where}; bring that back, delete the folder, "
                "or give this sweep another name: sweep.study=…"
            )
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of names, and of TPE's options
        study.set_metric_names(list(self._sweep.objectives))
        begun = self._begun_with()
        if "begun_with" not in study.user_attrs:
            study.set_user_attr("begun_with", begun)
            study.add_trial(self._draw([], self._current_values()))
        _refuse_other(study.user_attrs["begun_with"], begun, str(self.study_name))
        return study

    @property
    def _where(self) -> str:
        return storage.shown(self.storage)

    def _current_values(self) -> dict[str, Any]:
        """Return the configuration's own values of what the command line neither fixes nor searches."""
        assert self.config is not None
        groups, space = self.config.hydra.runtime.choices, self._sweep.space
        values = {one.key: groups.get(one.key, OmegaConf.select(self.config, one.key)) for one in space}
        given = {one.name or one.key for one in space if one.key in self._searched or one.key in self._fixed}
        return {name: value for name, value in current_values(space, values).items() if name not in given}

    def _begun_with(self) -> dict[str, Any]:
        """Return what must stay the same for trials to be comparable."""
        run = config.flat(self._settings.model_dump(mode="json", exclude=NOT_COMPARED))
        same = {key: value for key, value in run.items() if not key.startswith(MAY_CHANGE)}
        same |= {key: str(distribution) for key, distribution in self._searched.items()}
        same["objectives"] = ", ".join(self._sweep.objectives)
        same["sweep.space"] = [parameter.model_dump(exclude_defaults=True) for parameter in self._sweep.space]
        # The machines of a shared study may keep their outputs in different places.
        begun: dict[str, Any] = json.loads(json.dumps(same).replace(str(self._settings.outputs), "OUTPUTS"))
        return begun

    def _ask(self) -> list[optuna.Trial]:
        """Return the next trials, n_jobs at most; none where the study has as many as it shall have."""
        with locked(self.folder / ".lock"):
            self._release_abandoned()
            trials: list[optuna.Trial] = []
            while len(trials) < self.n_jobs:
                known = self._study.get_trials(deepcopy=False)
                if not any(trial.state == TrialState.WAITING for trial in known):
                    if len(known) >= self.n_trials:
                        break
                    self._study.add_trial(self._draw(known))
                trial = self._study.ask(self._searched)
                trial.set_user_attr("sweeper", self._me)
                trial.set_user_attr("folder", str(self.folder.resolve() / str(trial.number)))
                trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
                trials.append(trial)
            return trials

    def _draw(
        self, known: list[optuna.trial.FrozenTrial], given: Mapping[str, Any] | None = None
    ) -> optuna.trial.FrozenTrial:
        """Draw the next trial with all its parameters, so that a kill cannot leave it half drawn; some may be `given`.

        A run always ends the same way: what was tried already is drawn anew, in the end by chance, as long as something
        else turns up. What is drawn follows from the seed and the trials there are, not from who draws.
        """
        sketch = optuna.create_study(directions=self._directions)
        sketch.add_trials(known)
        if given is not None:
            sketch.enqueue_trial(dict(given))
        tried = [trial.params for trial in known]
        for attempt in range(ATTEMPTS):
            sketch.sampler = self._sampler(ATTEMPTS * len(known) + attempt, by_chance=attempt >= SAMPLED)
            trial = sketch.ask(self._searched)
            self._suggest(trial)
            if trial.params not in tried:
                break
            sketch.tell(trial, state=TrialState.FAIL)
        drawn = sketch.trials[trial.number]
        return optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=drawn.params,
            distributions=drawn.distributions,
            system_attrs=drawn.system_attrs,
        )

    def _sampler(self, draw: int, *, by_chance: bool = False) -> Any:
        settings: Any = OmegaConf.to_container(self._sampler_settings, resolve=True)
        if by_chance:
            settings = {"_target_": "optuna.samplers.RandomSampler", "seed": settings.get("seed")}
        if settings.get("seed") is not None and not settings["_target_"].endswith(FIXED_SEED):
            settings["seed"] += draw
        trusted = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
        return instantiate(settings, _execution_whitelist_=trusted)

    def _suggest(self, trial: optuna.Trial) -> dict[str, str]:
        """Have every parameter of the trial chosen; return the configuration keys that it is run with, as text."""
        if self.custom_search_space_extender is not None and self.config is not None:
            self.custom_search_space_extender(self.config, trial)
        ours = {parameter.name or parameter.key for parameter in self._sweep.space}
        theirs = {key: _typed(v) for key, v in trial.params.items() if key in self._searched or key not in ours}
        chosen = suggest(self._sweep.space, trial, {**self._fixed, **theirs})
        return {**self._fixed, **theirs, **{key: _typed(value) for key, value in chosen.items()}}

    def _release_abandoned(self) -> None:
        """Release the trials whose sweeper is gone: their runs continue where they were."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            sweeper = trial.user_attrs.get("sweeper")
            if sweeper != self._me and (sweeper is None or is_gone(self.folder, sweeper)):
                self._release(trial.number)
        for path in self.folder.glob(".sweeper-*"):
            if not in_use(path):
                path.unlink(missing_ok=True)  # none of its trials is left

    def _release(self, number: int, *, machine_failed: bool = False) -> None:
        """Have a trial run again; one that was started too often, the machine's failures aside, has failed."""
        identity = trial_id(self._storage, self._study.study_name, number)
        starts = self._storage.get_trial(identity).user_attrs.get("starts", 0)
        if machine_failed:
            self._storage.set_trial_user_attr(identity, "starts", starts - 1)
        elif starts >= STARTS:
            print(f"trial {number} was begun {STARTS} times and never ended; it counts as failed")
            self._study.tell(number, state=TrialState.FAIL)
            return
        self._storage.set_trial_state_values(identity, TrialState.WAITING)

    # --- trials ------------------------------------------------------------------------------------------------------

    def _run(self, trials: Sequence[optuna.Trial]) -> None:
        assert self.launcher is not None
        overrides = [self._overrides(trial) for trial in trials]
        for trial in trials:
            self._wait_for_orphan(trial)
            print(f"\ntrial {trial.number} of {self.n_trials}: {_words(trial.params)}", flush=True)
        try:
            returns = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        except Exception as error:  # a worker that died takes its whole batch with it
            fault = machine_fault(error)
            for trial in trials:
                self._release(trial.number, machine_failed=fault is not None)
            if fault is not None:
                raise MachineError(fault) from error
            why = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            print(f"the launcher lost these trials ({why}); they are begun again", file=sys.stderr)
            return
        failures = [self._record(trial, result) for trial, result in zip(trials, returns, strict=True)]
        for failure in filter(None, failures):
            raise failure

    def _overrides(self, trial: optuna.Trial) -> tuple[str, ...]:
        """Return the trial's configuration, as overrides of the command line's."""
        identity = Trial(number=trial.number, study=str(self.study_name), storage=str(self.storage))
        own = {"name": f"sweeps/{self.study_name}/{trial.number}", "++sweep.trial": _typed(identity.model_dump())}
        values = {**self._suggest(trial), **own}
        return (*(f"{key}={value}" for key, value in values.items()), *self._deletions)

    def _wait_for_orphan(self, trial: optuna.Trial) -> None:
        """Wait for a worker that a killed sweep left behind, if it still works on the trial; its work is not lost."""
        journal = self.folder / str(trial.number) / "journal.jsonl"
        if in_use(journal):
            print(f"trial {trial.number} is still run by a worker that a killed sweep left behind: waiting for it")
        while in_use(journal):
            time.sleep(1)

    def _record(self, trial: optuna.Trial, result: JobReturn) -> MachineError | None:
        """Record a trial's end in the study; a failure of the machine is no end, and is returned."""
        try:
            with redirect_stderr(io.StringIO()):  # Hydra prints a line of a failure; the run has said more
                found = result.return_value
            values = [float(value) for value in (found if isinstance(found, Sequence) else [found])]
        except MachineError as error:
            self._release(trial.number, machine_failed=True)
            return error
        except Exception as error:  # the run's own; it was said when it happened
            trial.set_user_attr("failure", f"{type(error).__name__}: {str(error)[:300]}")
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        state = run_state(self.folder / str(trial.number))
        if state is not None and (state.stopped or "").startswith(HOPELESS):
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, values)
        return None

    # --- the end -----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        count = Counter(trial.state for trial in trials)
        done, cut, failed = (count[state] for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        elsewhere = f", {n} under way on another machine" if (n := count[TrialState.RUNNING]) else ""
        print(f"\nthe study {self.study_name} has {len(trials)} trials: ", end="")
        print(f"{done} came to their end, {cut} cut short, {failed} failed{elsewhere}")
        best = self._study.best_trials if done else []
        for trial in best if len(self._sweep.objectives) > 1 else best[:1]:
            figures = zip(self._sweep.objectives, trial.values, strict=True)
            named = ", ".join(f"{name} {value:.2f}" for name, value in figures)
            print(f"  {self.folder / str(trial.number)}: {named}; {_words(trial.params)}")
        states = [state for trial in trials if (state := run_state(self.folder / str(trial.number))) is not None]
        if known := cache_savings(states):
            print(known)
        print(
            f"python -m src.compare {self.folder}   compares them; optuna-dashboard '{self._where}'   shows the study"
        )
        if not done and not cut:
            barren = any(str(trial.user_attrs.get("failure")).startswith("FruitlessError") for trial in trials)
            kind = FruitlessError if barren else UserError
            raise kind("no trial came to its end; see above why, mend it, and give the sweep a new sweep.study=…")


def _checked(composed: DictConfig) -> Settings:
    """Return the settings that all trials start from.

    Raises:
        UserError: a mistake in the configuration, or in what it names.
    """
    plain = composed.copy()
    OmegaConf.set_struct(plain, False)
    plain.pop("hydra")
    settings = config.read(plain)
    if settings.sweep is None:
        raise UserError("this sweeper needs to know what to search: add +sweep=strategy, or another of conf/sweep")
    from src.models import founders
    from src.tracking import trackers

    trackers.check(settings.track)
    founders.look(settings)
    return settings


def _read(override: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return what one override has searched, what it fixes and what it deletes.

    Raises:
        UserError: what it would have searched is nothing to choose from.
    """
    try:
        found = create_params_from_overrides([override])
    except (ValueError, AssertionError, NotImplementedError) as error:
        why = str(error) if isinstance(error, ValueError) else "a search takes choice(a,b), range(1,5) or interval(0,1)"
        raise UserError(f"{printable(override)} cannot be searched: {why}") from error
    for distribution in found[0].values():
        bounds = (getattr(distribution, "low", 0), getattr(distribution, "high", 0))
        if not all(map(math.isfinite, bounds)):
            raise UserError(f"{printable(override)} cannot be searched: its bounds must be numbers, and finite")
    return found


def _refuse_other(then: dict[str, Any], now: dict[str, Any], study: str) -> None:
    differ = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if not differ:
        return
    words = [f"{key} was {then.get(key)}, is {now.get(key)}" for key in differ[:3]]
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    raise UserError(
        f"the study {study} was begun with other settings, so its trials could not be compared: {'; '.join(words)}"
        f"{more}.\nGive this sweep a study of its own: sweep.study=…; or go on with that one's command."
    )


def _typed(value: Any) -> str:
    """Return a value as Hydra's command line spells it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and not value.replace("_", "").isalnum():
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _words(params: dict[str, Any]) -> str:
    return printable(" ".join(f"{key}={value}" for key, value in params.items()))
