"""Events: what a line of the journal may say. Whoever wrote a journal, what is taken from it has this shape.

What a run's past has to do with it (is that model known, is it the parents' turn?) is the state's affair (src.journal).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from src.runtime import names
from src.runtime.names import BASE

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""No path of any system has a NUL in it."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Generation = Annotated[int, Field(ge=0, lt=10**9)]
OffspringName = Annotated[str, AfterValidator(names.offspring)]
Kinship = dict[str, list[Annotated[tuple[str, str, float], Strict(False)]]]
"""Of each metric, of pairs of models."""


class _Fields(BaseModel):
    """Fields that are not listed are a later version's, and nobody reads them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class _Metric(_Fields):
    metric: str


class _Merge(_Fields):
    method: str
    parameters: dict[str, Any] = {}


class _Stop(_Fields):
    generations: int | None
    kinship: float | Literal["auto"] | None
    patience: int


class _Task(_Fields):
    name: str
    weight: float = 1.0


class _Evaluate(_Fields):
    tasks: list[_Task]
    holdout: float | list[Any] | None = None


class _Strategy(_Fields):
    name: str
    k: Annotated[int, Field(ge=1)] | None = None


class _Settings(_Fields):
    """What reports and comparisons ask for; whether a run may go on is decided by all of them (src.config)."""

    name: str
    seed: int
    founders: dict[str, Any]
    strategy: _Strategy
    kinship: _Metric
    merge: _Merge
    stop: _Stop
    evaluate: _Evaluate


class _Machine(_Fields):
    processes: int = 1


class _Provenance(_Fields):
    date: str = ""
    command: str = ""
    kinmerge: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    python: str = ""
    platform: str = ""
    gpu: str | None = None


class _Started(_Fields):
    version: int
    settings: _Settings
    versions: dict[str, str] = {}
    machine: _Machine = _Machine()
    provenance: _Provenance = _Provenance()


class _Resumed(_Fields):
    settings: _Settings
    versions: dict[str, str] = {}
    provenance: _Provenance = _Provenance()


class _Founder(_Fields):
    model: str
    base: bool
    source: Text
    fingerprint: str
    surroundings: str = ""

    def model_post_init(self, context: Any) -> None:
        """Raise ValueError unless the name is one that a run gives."""
        if self.base != (self.model == BASE):
            raise ValueError(
                f"{self.model!r} is {'' if self.base else 'not '}called the base; that one's name is {BASE}"
            )
        if not self.base:
            names.founder(self.model)


class _OwnMerge(_Fields):
    model_config = ConfigDict(extra="forbid")

    method: str
    base_model: Literal["parent", "ancestor"] | None = None
    parameters: dict[str, Any] = {}
    each: list[dict[str, Any]] = []


class _Prediction(_Fields):
    value: float
    low: float
    high: float


class _Offspring(_Fields):
    name: OffspringName
    parents: Annotated[list[str], Field(min_length=1)]
    exploration: bool
    merge: _OwnMerge | None = None
    predicted: _Prediction | None = None
    whole: bool = False

    def model_post_init(self, context: Any) -> None:
        """Raise ValueError where parameters are listed for other parents than there are."""
        if self.merge is not None and len(self.merge.each) not in {0, len(self.parents)}:
            raise ValueError(f"{self.name} has {len(self.parents)} parents and parameters of {len(self.merge.each)}")


class _Selected(_Fields):
    generation: Generation
    offspring: list[_Offspring]

    def model_post_init(self, context: Any) -> None:
        """Raise ValueError unless the names are of this generation."""
        for one in self.offspring:
            if int(one.name.partition("-")[0]) != self.generation:
                raise ValueError(f"{one.name} is no name of generation {self.generation}")


class _Ingredient(_Fields):
    model_config = ConfigDict(extra="forbid")

    model: str
    parameters: dict[str, Any] = {}


class _Config(_Fields):
    """mergekit's, as far as it can name a model; others of its keys could name files."""

    model_config = ConfigDict(extra="forbid")

    merge_method: str
    models: Annotated[list[_Ingredient], Field(min_length=1)]
    parameters: dict[str, Any] = {}
    base_model: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    out_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    tokenizer_source: Text | None = None


class _Recipe(_Fields):
    model_config = ConfigDict(extra="forbid")

    config: _Config
    donor: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    threads: Annotated[int, Field(ge=1, le=2**13)]

    def model_post_init(self, context: Any) -> None:
        """Raise ValueError unless the donor is one of those that are merged."""
        if self.donor not in (models := [one.model for one in self.config.models]):
            raise ValueError(f"the donor {self.donor!r} is none of the merged {', '.join(models)[:200]}")


class _Merged(_Fields):
    model: OffspringName
    recipe: _Recipe
    fingerprint: str
    seconds: float
    cached: bool = False


class _Measured(_Fields):
    models: list[str]
    kinship: Kinship
    seconds: float
    cached: bool = False


class CutOff(_Fields):
    """Generated answers of a task that ended since no more tokens were allowed, not since the model had finished."""

    model_config = ConfigDict(extra="forbid")

    answers: Count
    of: Annotated[int, Field(ge=1, lt=2**63)]
    """All answers that were generated for it."""
    tokens: Count
    """At which they were cut off: lm-eval's max_gen_toks."""

    def words(self, task: str) -> str:
        """Return it as a sentence, without its end."""
        return f"{self.answers} of {self.of} answers of {task} were cut off at {self.tokens} tokens"


class _Scored(_Fields):
    model: str
    scores: dict[str, float]
    average: float
    stderr: float
    stderrs: dict[str, float] = {}
    samples: Count
    seconds: float
    metrics: dict[str, str] = {}
    cut_off: dict[str, CutOff] = {}
    cached: bool = False
    part: Count | None = None
    parts: Count = 1

    def model_post_init(self, context: Any) -> None:
        """Raise ValueError unless the part is one of the parts."""
        if self.part is not None and self.part >= self.parts:
            raise ValueError(f"the samples are in {self.parts} parts, from 0 on, of which {self.part} is none")


class _Failed(_Fields):
    model: str
    reason: str


class _Closed(_Fields):
    generation: Generation
    seconds: float = 0.0


class _Expected(_Fields):
    values: dict[str, float]
    gain: Annotated[float, Field(ge=0)]


class Lesson(_Fields):
    """What was learned by gradient before a generation's candidate."""

    generation: Generation
    """The candidate's."""
    steps: Count
    """Gradient steps by then, since the beginning."""
    forward: Count
    """Samples that went through the model in this lesson, those kept back included."""
    back: Count
    """Samples whose gradient was taken."""
    loss: float | None
    """On the samples of the last steps, in the mean; None before the first step."""
    kept_back: float
    """On the samples that were not learned from."""
    weights: dict[str, float]
    """Of every direction by name, in the mean over blocks."""
    seconds: float


class _Differentiated(_Fields):
    generation: Generation
    model: str
    forward: Count
    back: Count
    directions: list[str]
    tasks: list[str]
    values: list[list[list[float]]]
    seconds: float


class _Compared(_Fields):
    model_config = ConfigDict(extra="forbid")

    event: Literal["compared"]
    side: Literal["select", "holdout"]
    winner: str
    founder: str
    difference: float
    low: float
    high: float
    p: float
    samples: Count
    resamples: Count = 0
    error: float = 0.0


class _OfModel(_Fields):
    model: str


class _Stopped(_Fields):
    reason: str


KINDS: Mapping[str, type[_Fields]] = {
    "started": _Started,
    "resumed": _Resumed,
    "founder": _Founder,
    "selected": _Selected,
    "merged": _Merged,
    "measured": _Measured,
    "evaluated": _Scored,
    "held_out": _Scored,
    "failed": _Failed,
    "holdout_failed": _Failed,
    "retried": _OfModel,
    "closed": _Closed,
    "expected": _Expected,
    "learned": Lesson,
    "differentiated": _Differentiated,
    "compared": _Compared,
    "stopped": _Stopped,
}


OF_A_MODEL = frozenset({"evaluated", "held_out", "failed", "holdout_failed", "retried"})
OF_THE_BASE = OF_A_MODEL - {"retried"}
"""What may be told of the base, too, which a search may have evaluated."""


def check_fields(event: Mapping[str, Any]) -> None:
    """Raise ValueError, with the field's path in it, unless an event has the fields of its kind.

    Kinds that are not known here are a later version's; nobody reads them.
    """
    kind = event.get("event")
    if not isinstance(kind, str):
        raise ValueError(f"event is {kind!r}; expected a word")
    fields = KINDS.get(kind)
    if fields is None:
        return
    try:
        fields.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in (kind, *first["loc"]))
        if first["type"] == "missing":
            raise ValueError(f"{path} is missing") from None
        raise ValueError(
            f"{path} is {repr(first['input'])[:80]}; {first['msg'].removeprefix('Value error, ')}"
        ) from None


def models_in(event: Mapping[str, Any]) -> set[str]:
    """Return the names of all models that an event takes for known; the base is none of them."""
    kind = event["event"]
    if kind == "selected":
        return {parent for one in event["offspring"] for parent in one["parents"]}
    if kind == "measured":
        related = (name for pairs in event["kinship"].values() for a, b, _ in pairs for name in (a, b))
        return {*event["models"], *related}
    if kind == "expected":
        return {*event["values"]}
    if kind == "learned":
        return {*event["weights"]}
    if kind == "differentiated":
        return {event["model"], *event["directions"]} - {BASE}
    if kind == "compared":
        return {event["winner"], event["founder"]}
    if kind == "merged":
        return {event["model"], *models_of(event["recipe"])}
    return {event["model"]} - ({BASE} if kind in OF_THE_BASE else set()) if kind in OF_A_MODEL else set()


def models_of(recipe: Mapping[str, Any]) -> set[str]:
    """Return the names of all models that a recipe takes; the base, which is there anyway, is none of them."""
    config = recipe["config"]
    return {*(entry["model"] for entry in config["models"]), config.get("base_model") or BASE} - {BASE}
