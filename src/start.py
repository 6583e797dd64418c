"""A start of a run, its first or a later one: what the journal records of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.config import Settings, flat
from src.journal import VERSION, State, events_of, replay
from src.models import digest
from src.models.checkpoint import Checkpoint
from src.models.founders import check_unchanged
from src.population import Model
from src.runtime import provenance
from src.runtime.errors import UserError
from src.runtime.secrets import masked_settings
from src.runtime.workers import Workers
from src.strategy.recipes import settings_of

LIBRARIES = ("torch", "transformers", "mergekit", "lm-eval", "safetensors", "accelerate")
PASSING: Any = {
    **dict.fromkeys(("dry_run", "resume", "retry_failed", "publish", "sweep"), True),
    "evaluate": {"unsafe_code"},
}
"""Settings of a single start, not of the run, as pydantic leaves them out: none changes what is found."""
HARMLESS = ("stop.", "track.", "workers.", "cache.", "keep", "figures")
"""What resume=force may change: none of it has a say in what a merge or an evaluation gives."""
NEW: dict[str, Any] = {
    "cache.factors": 4.0,
    "evaluate.apply_chat_template": False,
    "evaluate.fewshot_as_multiturn": True,
    "evaluate.objective": "average",
    "evaluate.share_prefixes": False,
    "figures": [],
    "strategy.derivatives": False,
    "workers.processes_per_gpu": 1,
}
"""Keys that older journals do not have, and what they meant without; any other was null."""


def of_run(settings: Settings) -> dict[str, Any]:
    """Return the settings that are the run's, as the journal keeps them: without secrets."""
    return masked_settings(settings.model_dump(mode="json", exclude=PASSING))


def common(settings: Settings, workers: Workers, questions: Mapping[str, str]) -> dict[str, Any]:
    """Return what all processes of a run must have in common: settings, versions, kind of device, what is asked."""
    plain = flat(settings.model_dump(mode="json"))
    return {**plain, **versions(), "the device": _device(workers), **questions}


def earlier(settings: Settings, state: State | None = None) -> tuple[list[Model], dict[str, str]]:
    """Return the models of the run that the strategy starts from, and by their name there the founders that are here.

    Args:
        settings: of this run; `strategy.warm_start` is the other's folder.
        state: of this run; None before there is one: then the other run is only looked at, and no founder is known.

    Raises:
        UserError: no run there, no weighted sum in it, another base, fewer than two founders in common, or a budget
            that it would use up.
    """
    folder = getattr(settings.strategy, "warm_start", None)
    if folder is None:
        return [], {}
    key = f"strategy.warm_start={folder}"
    try:
        other = replay(events_of(Path(folder)))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    models = list(other.population)
    merged = sum(model.average is not None and bool(settings_of(model)) for model in models if model.parents)
    if not merged:
        raise UserError(f"{key}: none of its merges is a weighted sum (task_arithmetic, linear, a searched recipe)")
    known = 1 + len(settings.founders.models) + settings.strategy.most_proposals(len(settings.founders.models))
    budget = settings.stop.evaluations
    if budget is not None and settings.strategy.needs_base and known + merged >= budget:
        raise UserError(
            f"{key}: its {merged} merges count as evaluations, like the base, the founders and the first merges "
            f"({known}), even where the cache remembers them; stop.evaluations={budget} leaves none to search with"
        )
    if state is None:
        return models, {}
    here = {model.fingerprint: name for name, model in state.given.items()}
    names = {name: here[model.fingerprint] for name, model in other.given.items() if model.fingerprint in here}
    if names.pop("base", None) != "base" or len(names) < 2:
        raise UserError(f"{key}: expected a run over the same base and at least two of these founders")
    return models, names


def record(
    write: Callable[..., None], state: State, settings: Settings, workers: Workers, given: Mapping[str, Checkpoint]
) -> None:
    """Record a start: the run's first event, or whatever changed since the last start; and every founder, once.

    `write` takes an event and its fields; `given` are the base, as `base`, and the founders.

    Raises:
        UserError: the run was begun with other settings, or a founder's weights have changed since.
    """
    wanted = of_run(settings)
    code = workers.in_main("provenance", lambda: asdict(provenance.collect(workers.devices[0])))
    about = {"versions": versions(), "provenance": code}
    if state.started is None:
        machine = {"device": _device(workers), "threads": workers.threads}
        write("started", version=VERSION, settings=wanted, machine=machine, processes=workers.processes, **about)
    elif changed(state.started["settings"], wanted):
        refuse_other(state.started["settings"], wanted, settings)
        write("resumed", settings=wanted, **about)
    elif state.stopped is None and state.starts and _code(state.starts[-1]) != _code(about):
        write("resumed", settings=wanted, **about)
    for name, checkpoint in given.items():
        if name not in state.given:
            write(
                "founder",
                model=name,
                base=name == "base",
                source=checkpoint.source,
                fingerprint=checkpoint.fingerprint(),
                surroundings=digest.of_surroundings(checkpoint.path),
                parameters=checkpoint.parameters,
            )
    check_unchanged(given, state.model)
    if settings.retry_failed and state.stopped is None:
        for model in state.population:
            if model.failure is not None and model.name not in state.retried:
                write("retried", model=model.name)
    elif settings.retry_failed and state.holdout_failures:
        write("resumed", settings=wanted, **about)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what comes out."""
    return {library: version(library) for library in LIBRARIES}


def _code(about: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what decides what comes out: the libraries and the commit."""
    return about.get("versions"), about.get("provenance", {}).get("commit")


def _device(workers: Workers) -> str:
    return workers.devices[0].partition(":")[0]


def refuse_other(then: Mapping[str, Any], now: Mapping[str, Any], settings: Settings) -> None:
    """Refuse to go on with a run under settings that are not its own.

    Raises:
        UserError: listing what differs and the ways on; not if resume=force allows the change.
    """
    before, after, differ = flat(masked_settings(then)), flat(masked_settings(now)), changed(then, now)
    harmful = [key for key in differ if not key.startswith(HARMLESS) and not _holds_out_tasks(key, before, after)]
    if not differ or (not harmful and settings.resume == "force"):
        return
    words = [f"{key} was {before.get(key)!r}, is {after.get(key)!r}" for key in harmful or differ]
    listed = ", ".join(words[:5]) + (f", and {len(words) - 5} more" if len(words) > 5 else "")
    way_on = "" if harmful else "resume=force goes on with the change; "
    raise UserError(
        f"the run {settings.name} exists with another configuration: {listed}.\n"
        f"{way_on}name=… gives this one a folder of its own; the first command again goes on with that one."
    )


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys of which two configurations differ; of those that older versions had not, see `NEW`."""
    before, after = NEW | flat(masked_settings(then)), NEW | flat(masked_settings(now))  # older journals mask nothing
    return [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]


def _holds_out_tasks(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether this is a change of held-out tasks, not of samples.

    Then the search has seen the same either way.
    """
    return key == "evaluate.holdout" and not any(isinstance(each.get(key), float) for each in (before, after))
