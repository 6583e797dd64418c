"""The founders of a run and their base: found, looked at without doing any work, and brought here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from src.config import Settings
from src.models import digest
from src.models.adapters import CONFIG, is_adapter, split_source
from src.models.checkpoint import HUB_NAME, Checkpoint, check_family, open_checkpoint, open_family
from src.population import KinshipTable, Model, Population
from src.runtime.errors import UserError
from src.runtime.terminal import warn


@dataclass(frozen=True)
class Found:
    """A checkpoint as far as it could be looked at without downloading or training anything."""

    source: str
    checkpoint: Checkpoint | None
    """None where it is not on this machine."""
    nbytes: int | None
    """Bytes of weights; None where nobody could say."""
    remark: str
    """Where it is, or why it could not be looked at."""


def look(settings: Settings) -> dict[str, Found]:
    """Return the base (as `base`) and every founder, as far as they can be seen now.

    Raises:
        UserError: a local folder that is no sound checkpoint, or a source that is neither a folder nor a hub name.
    """
    base = _look(settings.founders.base, settings)
    return {"base": base, **{name: _look(one, settings, base) for name, one in settings.founders.models.items()}}


def check(settings: Settings, found: Mapping[str, Found]) -> None:
    """Refuse founders of different families or that mergekit cannot merge, and an unknown merge method or parameter."""
    here = {name: one.checkpoint for name, one in found.items() if one.checkpoint is not None}
    if (base := here.pop("base", None)) is not None:
        check_family(base, here)
    from src.models import merging  # seconds of imports, once everything that needs none is known to be sound

    merging.check(settings.merge, settings.strategy.most_parents(len(settings.founders.models)))
    equals = Population(tuple(Model(name, average=0.0) for name in settings.founders.models))
    for proposal in settings.strategy.propose(equals, KinshipTable(settings.kinship.metric)):
        if proposal.merge is not None:
            own = merging.with_own(settings.merge, proposal.merge)
            merging.check(own, len(proposal.parents), "strategy.merge")
    _check_tensors(settings, base, here)


def bring(settings: Settings) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Return the base and the founders, here and sound; what lies on the hub is downloaded."""
    models = open_family({"base": settings.founders.base, **settings.founders.models})
    base = models.pop("base")
    for warning in check_family(base, models):
        warn(warning)
    _check_tensors(settings, base, models)
    return base, models


def _check_tensors(settings: Settings, base: Checkpoint | None, models: Mapping[str, Checkpoint]) -> None:
    """Refuse a checkpoint that takes part in merges and lacks what mergekit asks for."""
    from src.models import merging

    ancestor = {"base": base} if base is not None and settings.merge.takes_ancestor else {}
    merging.check_tensors({**models, **ancestor}, remote_code=settings.trust_remote_code)


def check_unchanged(given: Mapping[str, Checkpoint], recorded: Callable[[str], Model]) -> None:
    """Raise UserError unless the base and the founders are what a run began with."""
    for name, checkpoint in given.items():
        known = recorded(name)
        if checkpoint.fingerprint() != known.fingerprint:
            what = "weights or configuration"
        elif known.surroundings and known.surroundings != digest.of_surroundings(checkpoint.path):
            what = "tokenizer or templates"
        else:
            continue
        raise UserError(
            f"the {what} of {name} ({checkpoint.source}) changed since the run began. "
            "Bring the old files back, or begin anew with name=…"
        )


def _look(source: str, settings: Settings, base: Found | None = None) -> Found:
    ancestor = None if base is None else base.checkpoint
    _, own = split_source(source)
    folder = Path(own).expanduser()
    if folder.is_relative_to(settings.zoo.folder) and not folder.exists():
        return Found(source, None, None, "not trained yet: the embedded family, about two minutes on two cores")
    if not folder.exists() and HUB_NAME.fullmatch(own):
        return _look_on_hub(source, base)
    if base is not None and ancestor is None and is_adapter(folder):
        return Found(source, None, base.nbytes, "an adapter, whose base is not here yet")
    checkpoint = open_checkpoint(source, base=ancestor)
    return Found(source, checkpoint, checkpoint.nbytes, str(checkpoint.path))


def _look_on_hub(source: str, base: Found | None) -> Found:
    """Return a hub model that was downloaded before, or what the hub says of it."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    named, own = split_source(source)
    try:
        snapshot = huggingface_hub.snapshot_download(own, local_files_only=True)
        ancestor = None if base is None else base.checkpoint
        opens = ancestor is not None or not is_adapter(Path(snapshot))
        there = f"{named}+{snapshot}" if named else snapshot
        checkpoint = open_checkpoint(there, base=ancestor) if opens else None
        here = None if checkpoint is None else replace(checkpoint, source=source)
        return Found(source, here, None if here is None else here.nbytes, f"downloaded, in {snapshot}")
    except (LocalEntryNotFoundError, UserError):
        pass  # never downloaded, or only in part
    try:
        info = huggingface_hub.HfApi().model_info(own, files_metadata=True, timeout=10)
    except RepositoryNotFoundError:
        raise UserError(
            f"{own}: neither a folder here nor a model on the hub; check the name (if it is private: hf auth login)"
        ) from None
    except Exception as error:  # the hub's own errors, those of its HTTP client and of sockets
        return Found(source, None, None, f"not downloaded yet, and the hub was not reached: {type(error).__name__}")
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    nbytes = sum(size for name, size in files.items() if name.endswith(".safetensors"))
    return Found(source, None, base.nbytes if base and CONFIG in files else nbytes, "on the hub, to be downloaded")
