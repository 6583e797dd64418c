"""The settings of a run: frozen, validated, and complained about here, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from src.config.evaluate import Evaluate
from src.config.founders import Founders, Zoo
from src.config.group import Group
from src.config.merge import Kinship, Merge
from src.config.sweep import Sweep
from src.runtime import place, plugins
from src.runtime.errors import UserError
from src.runtime.names import SAFE_NAME
from src.runtime.validation import explain, first_mistake
from src.strategy import (
    M2N2,
    STRATEGIES,
    GreedyTopk,
    KinshipTopk,
    OneShot,
    OptunaSearch,
    RandomPairs,
    RecipeGradient,
    RecipeSearch,
    Stop,
    Strategy,
    strategy_of,
)

# Mappings whose keys are somebody else's: evaluate.model_args.KEY=… needs no + before it. YAML cannot say this.
_OPEN = ("model_args", "gen_kwargs")
ConfigStore.instance().store(
    "open_keys", DictConfig({"evaluate": {key: DictConfig({}, flags={"struct": False}) for key in _OPEN}})
)


class Track(Group):
    """Where the figures are sent."""

    tracker: Literal["wandb", "tensorboard", "none"]
    project: Annotated[str, Field(min_length=1)]
    group: str | None
    mode: Literal["auto", "online", "offline"]


class Publish(Group):
    """Whether and where the winner is uploaded."""

    repo_id: str | None
    private: bool


class Workers(Group):
    """What each process uses."""

    device: Literal["auto", "cpu"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    """More than a machine grants takes torch, and the process, down."""
    gpus_per_model: Annotated[int, Field(ge=1)]
    processes_per_gpu: Annotated[int, Field(ge=1)] = 1
    timeout: Annotated[float, Field(gt=0)]
    """Minutes without any progress after which a process counts as hanging."""


class Cache(Group):
    """What is remembered across runs."""

    folder: Path | None
    weights: bool
    factors: Annotated[float, Field(ge=0)] = 4.0
    """GiB."""

    @property
    def factor_bytes(self) -> int:
        """Bytes that factors of founders' changes have at most."""
        return round(self.factors * 2**30)


class Settings(Group):
    """Everything a run was asked to do."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    outputs: Path
    dry_run: bool
    resume: Literal["auto", "force"]
    retry_failed: bool
    keep: Literal["all", "survivors", "best"]
    trust_remote_code: bool
    zoo: Zoo
    founders: Founders
    strategy: SerializeAsAny[
        Annotated[
            KinshipTopk | GreedyTopk | RandomPairs | OneShot | RecipeSearch | RecipeGradient | OptunaSearch | M2N2,
            Field(discriminator="name"),
        ]
    ]
    """One of these, or a subclass of `Strategy` that is named by its dotted path."""
    kinship: Kinship
    merge: Merge
    evaluate: Evaluate
    stop: Stop
    track: Track
    publish: Publish
    workers: Workers
    cache: Cache
    figures: tuple[str, ...] = ()
    """Dotted paths of the user's own sections of the page."""
    sweep: Sweep | None = None

    @field_validator("strategy", mode="wrap")
    @classmethod
    def _may_be_the_users_own(cls, given: Any, built_in: ValidatorFunctionWrapHandler) -> Strategy:
        if not (isinstance(given, Mapping) and plugins.is_dotted(str(given.get("name")))):
            return built_in(given)
        plugins.trust(given["name"])
        try:
            return strategy_of(given)
        except ValidationError as error:
            raise ValueError(f"({given['name']}): {first_mistake(error, STRATEGIES)}") from error

    @model_validator(mode="after")
    def _can_learn(self) -> Settings:
        asked = self.evaluate
        if self.strategy.learns and (asked.backend != "hf" or asked.evaluator is not None):
            other = f"evaluator={asked.evaluator}" if asked.evaluator else f"backend={asked.backend}"
            raise ValueError(
                f"has strategy.name={self.strategy.name}, which follows gradients, and evaluate.{other}, which gives "
                "none; leave evaluate.backend at hf and evaluate.evaluator at null"
            )
        if asked.share is not None and getattr(self.strategy, "derivatives", False):
            raise ValueError(
                "has strategy.derivatives=true, which needs models that answered all samples, and "
                f"evaluate.share={asked.share:g}; leave out one of them"
            )
        return self

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not all(SAFE_NAME.fullmatch(part) for part in name.split("/")):
            raise ValueError("is not a folder name; use letters, digits and ._+=,- only, and / for a folder of runs")
        return name

    @property
    def folder(self) -> Path:
        """The run's folder, absolute."""
        return (self.outputs / self.name).resolve()

    @property
    def stores(self) -> dict[str, Path | None]:
        """Folders that belong to no run, by the key that names them."""
        return {"zoo.folder": self.zoo.folder, "cache.folder": self.cache.folder}

    @property
    def uses_zoo(self) -> bool:
        """Whether a founder or a task of this run lies in the embedded family's folder."""
        places = [self.founders.base, *self.founders.models.values(), self.evaluate.include or ""]
        return any(Path(place).is_relative_to(self.zoo.folder) for place in places)


_GIVE = {
    "founders.base": "founders.base=BASE",
    "founders.models": "'founders.models={math: A, code: B}' (folders of safetensors or names on the hub)",
    "evaluate.tasks": "'evaluate.tasks=[gsm8k, arc_easy]' (lm-eval's, or your own in evaluate.include=FOLDER)",
}
"""How what nobody can guess is given, as it is typed."""


def read(composed: DictConfig) -> Settings:
    """Return the settings that Hydra composed, validated.

    Raises:
        UserError: naming the key, what was found and what was expected; the first mistake, and how many more.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(composed) & _GIVE.keys(), key=list(_GIVE).index):
            verb = "have no value; give them" if len(missing) > 1 else "has no value; give one"
            raise UserError(f"{', '.join(missing)} {verb}: {' '.join(_GIVE[key] for key in missing)}")
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        settings = Settings.model_validate(plain)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    except ValidationError as error:
        raise UserError(first_mistake(error, STRATEGIES)) from error
    plugins.trust(settings.kinship.metric, settings.merge.method, settings.evaluate.evaluator, *settings.figures)
    if settings.sweep is None or settings.sweep.trial is not None:  # a sweep itself is no run
        place.check(settings.outputs, settings.name, settings.stores)
    return settings


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
