"""The settings of a run: frozen, validated, and complained about here, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from src.population import Objective as Ranking
from src.runtime import names, place, plugins
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


Objective = Literal["best", "evaluations", "samples", "hours"]

DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "best": "maximize",
    "evaluations": "minimize",
    "samples": "minimize",
    "hours": "minimize",
}
"""Of each objective; `best` is the best average, the others are what a run has cost."""


METRICS = ("pcc", "cosine", "euclidean")
"""Of kinship; what they are, src.kinship.metrics says, which is too heavy to import for a configuration."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Zoo(_Settings):
    """The embedded family."""

    seed: Annotated[int, Field(ge=0)]
    effort: Annotated[float, Field(gt=0, le=1)]
    folder: Path


class Founders(_Settings):
    """The base and the checkpoints that descend from it, as the user named them."""

    base: Annotated[str, Field(min_length=1)]
    models: dict[str, str]

    @field_validator("models", mode="before")
    @classmethod
    def _name_by_last_part(cls, models: Any) -> Any:
        if not isinstance(models, Sequence) or isinstance(models, str):
            return models
        last = [Path(str(model)).name.rpartition("+")[2] for model in models]  # of BASE+ADAPTER, the adapter's
        if len(set(last)) < len(last):
            raise ValueError("two of the checkpoints end in the same name; name them: {first: PATH, second: PATH}")
        return dict(zip(last, models, strict=True))

    @model_validator(mode="after")
    def _are_a_family(self) -> Founders:
        if len(self.models) < 2:
            raise ValueError(f"has {len(self.models)} model; an evolution needs at least 2 founders")
        for name, source in self.models.items():
            names.founder(name)
            if _same_place(source, self.base):
                raise ValueError(f"has the base ({source}) as founder {name!r}; the base never is one: leave it out")
        _refuse_twins(self.models)
        return self


class Kinship(_Settings):
    """How relatedness is measured."""

    metric: str
    """pcc, cosine, euclidean, or the dotted path of the user's own `Metric`."""

    @field_validator("metric")
    @classmethod
    def _is_known_or_dotted(cls, metric: str) -> str:
        if metric not in METRICS and not plugins.is_dotted(metric):
            raise ValueError(
                f"is {metric!r}; should be 'pcc', 'cosine' or 'euclidean', or the dotted path of a metric of your own"
            )
        return metric


class Lines(_Settings):
    """Layer-wise scaling (LiNeS, arXiv 2410.17146): layer l of L by α + β l / (L − 1), all outside the layers by α."""

    alpha: float = 1.0
    beta: float = 0.0


class Treatment(_Settings):
    """What is done to what a merge changed."""

    scale: Any = 1.0
    """A factor: a number, or as mergekit takes any parameter, with gradients over the layers and filters."""
    lines: Lines = Lines()
    svc: Annotated[float, Field(ge=0, le=1)] = 0.0
    """α of singular value calibration (arXiv 2602.05536); 0: none."""

    @model_validator(mode="after")
    def _scales_by_one_gradient(self) -> Treatment:
        if self.lines != Lines() and (isinstance(self.scale, bool) or not isinstance(self.scale, int | float)):
            raise ValueError(
                f"has lines and scale={self.scale!r}; beside lines, scale is a number: lines are the gradient "
                "scale=[alpha, alpha + beta]"
            )
        return self

    @property
    def factor(self) -> Any:
        """What deltas are multiplied by, in mergekit's words."""
        if self.lines == Lines():
            return self.scale
        return [self.scale * self.lines.alpha, self.scale * (self.lines.alpha + self.lines.beta)]


class Merge(_Settings):
    """How parents become an offspring, in mergekit's words."""

    method: Annotated[str, Field(min_length=1)]
    base_model: Literal["parent", "ancestor"] | None
    parameters: dict[str, Any]
    each: dict[str, Any]
    dtype: Literal["float32", "float16", "bfloat16"] | None
    tokenizer_source: str | None
    treatment: Treatment | None = None
    """Of what any method of mergekit's changed; None where it would leave that as it is."""

    @field_validator("treatment")
    @classmethod
    def _does_something(cls, treatment: Treatment | None) -> Treatment | None:
        return None if treatment == Treatment() else treatment

    @property
    def takes_ancestor(self) -> bool:
        """Whether the founders' base is an input of every merge."""
        return self.base_model == "ancestor" or self.treatment is not None


class Task(_Settings):
    """One lm-eval task within an evaluation."""

    name: Annotated[str, Field(min_length=1)]
    shots: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples; None: as the task says."""
    metric: str | None = None
    """lm-eval's name, with or without a filter (`acc`, `exact_match,strict-match`); None: the task's first."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """In the average."""


class Evaluate(_Settings):
    """How good a model is: lm-eval's tasks, and how they are averaged."""

    tasks: tuple[Task, ...]
    include: Path | None
    holdout: tuple[Task, ...] | float | None
    """What is kept from the search and scored at the end: a share of each task's samples, or other tasks."""
    limit: Annotated[int, Field(ge=1)] | None
    """Samples a task, on either side."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of the samples that steer the search, what an offspring is asked; None: all of them."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"]
    backend: Literal["hf", "vllm"]
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    model_args: dict[str, Any]
    objective: Ranking = "average"
    """What models are ranked by, for selection, stopping and sweeps."""
    evaluator: str | None = None
    """Dotted path of the user's own evaluator; None: lm-eval."""
    unsafe_code: bool = False
    """Whether a task may execute Python of its own, or have what a model wrote executed."""
    apply_chat_template: bool | Annotated[str, Field(min_length=1)] = False
    """Whether a model is asked in its own chat template; or the name of one of its templates."""
    system_instruction: str | None = None
    """What prompts begin with: a chat's system message, or plain text where no template is applied."""
    fewshot_as_multiturn: bool = True
    """Whether the examples of a chat are turns of their own, or part of the question."""
    gen_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Over what tasks say of generating: max_gen_toks, do_sample, temperature, …"""

    @field_validator("tasks", mode="before")
    @classmethod
    def _spell_out(cls, tasks: Any) -> Any:
        if isinstance(tasks, str):
            tasks = [tasks]
        if not isinstance(tasks, Sequence):
            return tasks
        if not tasks:
            raise ValueError("is empty; name at least one lm-eval task")
        return [{"name": task} if isinstance(task, str) else task for task in tasks]

    @field_validator("holdout", mode="before")
    @classmethod
    def _is_a_share_or_tasks(cls, holdout: Any) -> Any:
        if isinstance(holdout, int | float) and not isinstance(holdout, bool) and 0 < holdout < 1:
            return float(holdout)
        if isinstance(holdout, list | tuple):
            return cls._spell_out(holdout)
        if holdout is not None:
            raise ValueError(
                f"is {holdout!r}; expected a share of the samples between 0 and 1 (0.5), other tasks ([TASK]) or null"
            )
        return None

    @field_validator("share")
    @classmethod
    def _makes_parts(cls, share: float | None) -> float | None:
        if share is not None and 0.5 < share < 1:
            raise ValueError(f"is {share:g}; expected 0.5 or less, since the parts are of equal size; or null, for all")
        return None if share == 1 else share

    @field_validator("tasks", "holdout")
    @classmethod
    def _are_different(cls, tasks: Any) -> Any:
        names = [task.name for task in tasks] if isinstance(tasks, tuple) else []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"has {', '.join(twice)} twice; leave one out")
        return tasks

    @model_validator(mode="after")
    def _hold_out_other_tasks(self) -> Evaluate:
        both = sorted({task.name for task in self.tasks} & {task.name for task in self.held_out})
        if both:
            raise ValueError(
                f"has {', '.join(both)} among tasks and holdout alike; what steers the search is not held out: "
                "name other tasks, or hold out a share of the samples (evaluate.holdout=0.5)"
            )
        return self

    @property
    def parts(self) -> int:
        """In how many parts the samples of each task are divided, of which an offspring is asked one."""
        return 1 if self.share is None else round(1 / self.share)

    @property
    def held_out_share(self) -> float | None:
        """The share of each task's samples that is held out; None where whole tasks are, or nothing."""
        return self.holdout if isinstance(self.holdout, float) else None

    @property
    def held_out(self) -> tuple[Task, ...]:
        """The tasks that are held out; none where a share of the samples is, or nothing."""
        return self.holdout if isinstance(self.holdout, tuple) else ()


class Track(_Settings):
    """Where the figures are sent."""

    tracker: Literal["wandb", "tensorboard", "none"]
    project: Annotated[str, Field(min_length=1)]
    group: str | None
    mode: Literal["auto", "online", "offline"]


class Publish(_Settings):
    """Whether and where the winner is uploaded."""

    repo_id: str | None
    private: bool


class Workers(_Settings):
    """What each process uses."""

    device: Literal["auto", "cpu"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    """More than a machine grants takes torch, and the process, down."""
    gpus_per_model: Annotated[int, Field(ge=1)]
    processes_per_gpu: Annotated[int, Field(ge=1)] = 1
    timeout: Annotated[float, Field(gt=0)]
    """Minutes without any progress after which a process counts as hanging."""


class Cache(_Settings):
    """What is remembered across runs."""

    folder: Path | None
    weights: bool
    factors: Annotated[float, Field(ge=0)] = 4.0
    """GiB."""

    @property
    def factor_bytes(self) -> int:
        """Bytes that factors of founders' changes have at most."""
        return round(self.factors * 2**30)


class Parameter(_Settings):
    """One key of the configuration that trials differ in: some choices, or a range."""

    key: Annotated[str, Field(min_length=1)]
    name: str | None = None
    """In the study; None: the key. A key that has other choices under other conditions needs a name for each."""
    when: dict[str, list[Any]] = Field(default_factory=dict)
    """Other keys and what they must be for this one to mean anything; empty: it always does."""
    choices: list[bool | int | float | str | None] | None = None
    low: int | float | None = None
    high: int | float | None = None
    """Included. Whole numbers where both bounds are."""
    step: int | float | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Parameter:
        bounds = self.low is not None and self.high is not None
        if bool(self.choices) == bounds:
            raise ValueError(f"({self.key}) needs either choices, or low and high")
        return self


class Prune(_Settings):
    """When a trial is hopeless: its best average is among the worst at the same generation."""

    keep: Annotated[float, Field(gt=0, lt=100)]
    """Percent of the trials, the best ones, that may go on after a generation."""
    startup: Annotated[int, Field(ge=1)]
    """Trials that must have come to their end, past the generation in question, before any is cut short."""
    warmup: Annotated[int, Field(ge=0)]
    """Generations that every trial is given."""


class Trial(_Settings):
    """Which trial of which study a run is; written by the sweep, never by hand."""

    number: Annotated[int, Field(ge=0)]
    study: str
    storage: str


class Sweep(_Settings):
    """A search over configurations, or a run's place in one."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}$")]
    """Its name, which becomes a folder."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    prune: Prune | None
    space: tuple[Parameter, ...]
    trial: Trial | None = None

    @model_validator(mode="after")
    def _prunes_by_one_figure(self) -> Sweep:
        if self.prune is not None and self.objectives != ("best",):
            raise ValueError("has prune and other objectives than best; trials are cut short by that alone: prune=null")
        return self


class Settings(_Settings):
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


def _same_place(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve())


def _refuse_twins(models: Mapping[str, str]) -> None:
    seen: list[tuple[str, str]] = []
    for name, source in models.items():
        for other, known in seen:
            if _same_place(source, known):
                raise ValueError(f"has the same checkpoint twice, as {other!r} and {name!r} ({source}); leave one out")
        seen.append((name, source))
