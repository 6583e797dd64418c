"""How good a model is: settings of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from src.config.group import Group
from src.population import Objective as Ranking


class Task(Group):
    """One lm-eval task within an evaluation."""

    name: Annotated[str, Field(min_length=1)]
    shots: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples; None: as the task says."""
    metric: str | None = None
    """lm-eval's name, with or without a filter (`acc`, `exact_match,strict-match`); None: the task's first."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """In the average."""


class Evaluate(Group):
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
    share_prefixes: bool = False
    """Whether what texts begin with alike goes through the model once a batch; log-likelihoods differ by rounding."""
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

    @model_validator(mode="after")
    def _can_share_prefixes(self) -> Evaluate:
        if self.share_prefixes and (self.backend != "hf" or self.evaluator is not None):
            other, why = f"backend={self.backend}", "shares them by itself"
            if self.evaluator is not None:
                other, why = f"evaluator={self.evaluator}", "batches as it likes"
            raise ValueError(f"has share_prefixes=true, and {other}, which {why}; leave share_prefixes at false")
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
