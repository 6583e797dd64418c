"""The founders of a run and their base: found, looked at without doing any work, and brought here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from src import zoo
from src.config import Settings
from src.journal import State
from src.models import digest
from src.models.checkpoint import Checkpoint, check_family, open_checkpoint
from src.runtime.errors import UserError
from src.runtime.progress import note
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
    """The base (as `base`) and every founder, as far as they can be seen now.

    Raises:
        UserError: a local folder that is no sound checkpoint, or a source that is neither a folder nor a hub name.
    """
    sources = {"base": settings.founders.base, **settings.founders.models}
    return {name: _look(source, settings) for name, source in sources.items()}


def check(settings: Settings, found: Mapping[str, Found]) -> None:
    """Refuse what would fail later: founders of different families, or that mergekit cannot merge, an unknown merge
    method or parameter, a task that lm-eval does not have, that would execute code, or that cannot work.

    Raises:
        UserError: the first mistake.
    """
    here = {name: one.checkpoint for name, one in found.items() if one.checkpoint is not None}
    if (base := here.pop("base", None)) is not None:
        check_family(base, here)
    from src.evaluation import tasks
    from src.models import merging  # seconds of imports, once everything that needs none is known to be sound

    merging.check(settings.merge, settings.strategy.most_parents(len(settings.founders.models)))
    _check_tensors(settings, base, here)
    inside = settings.evaluate.include is not None and settings.evaluate.include.is_relative_to(settings.zoo.folder)
    tasks.check_backend(settings.evaluate)
    tasks.check_tasks(settings.evaluate, known=zoo.TASKS if inside else (), own=zoo.READER)
    if settings.dry_run or any(one.checkpoint is None for one in found.values()):
        from src.evaluation.evaluator import Evaluator

        # A run makes its tasks before it evaluates anything; a plan, or a long download, should not come before that.
        Evaluator(tasks.with_data_here(settings.evaluate), seed=settings.seed)


def bring(settings: Settings) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and the founders, here and sound: the embedded family is trained if need be, hub models downloaded.

    Raises:
        UserError: as `check_family`, or a download that failed.
    """
    if settings.uses_zoo:
        build_zoo(settings)
    base = open_checkpoint(settings.founders.base)
    models = {name: open_checkpoint(source) for name, source in settings.founders.models.items()}
    for warning in check_family(base, models):
        warn(warning)
    _check_tensors(settings, base, models)
    return base, models


def _check_tensors(settings: Settings, base: Checkpoint | None, models: Mapping[str, Checkpoint]) -> None:
    """Refuse a checkpoint that takes part in merges and lacks what mergekit asks for."""
    from src.models import merging

    ancestor = {"base": base} if base is not None and settings.merge.base_model == "ancestor" else {}
    merging.check_tensors({**models, **ancestor}, remote_code=settings.trust_remote_code)


def check_unchanged(given: Mapping[str, Checkpoint], state: State) -> None:
    """Raise UserError unless the base and the founders are what a run began with."""
    for name, checkpoint in given.items():
        beside = digest.of_surroundings(checkpoint.path)
        for what, changed in (
            ("weights or configuration", checkpoint.fingerprint() != state.fingerprints[name]),
            ("tokenizer or templates", beside != state.surroundings.get(name, beside)),
        ):
            if changed:
                raise UserError(
                    f"the {what} of {name} ({checkpoint.source}) changed since the run began. "
                    "Bring the old files back, or begin anew with name=…"
                )


def build_zoo(settings: Settings) -> None:
    """Train the embedded family of these settings, unless it is there already."""
    if not settings.zoo.folder.exists():
        note(f"training the embedded family in {settings.zoo.folder}: about two minutes on two cores")
    with tqdm(desc="training the embedded family", disable=None, leave=False) as bar:

        def progress(stage: str, done: int, total: int) -> None:
            bar.set_description(f"training the embedded family: {stage}", refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        zoo.build(settings.zoo.folder, settings.zoo.seed, effort=settings.zoo.effort, progress=progress)


def _look(source: str, settings: Settings) -> Found:
    folder = Path(source).expanduser()
    if folder.is_relative_to(settings.zoo.folder) and not folder.exists():
        return Found(source, None, None, "not trained yet: the embedded family, about two minutes on two cores")
    if folder.exists() or not _is_hub_name(source):
        checkpoint = open_checkpoint(source)
        return Found(source, checkpoint, checkpoint.nbytes, str(checkpoint.path))
    return _look_on_hub(source)


def _is_hub_name(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "~", "/")) and all(source.split("/"))


def _look_on_hub(source: str) -> Found:
    """A hub model that was downloaded before, or what the hub says of it."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        snapshot = huggingface_hub.snapshot_download(source, local_files_only=True)
        checkpoint = open_checkpoint(Path(snapshot))
        return Found(source, checkpoint, checkpoint.nbytes, f"downloaded, in {snapshot}")
    except (LocalEntryNotFoundError, UserError):
        pass  # never downloaded, or only in part
    try:
        info = huggingface_hub.HfApi().model_info(source, files_metadata=True, timeout=10)
    except RepositoryNotFoundError:
        raise UserError(
            f"{source}: neither a folder here nor a model on the hub; check the name (if it is private: hf auth login)"
        ) from None
    except Exception as error:  # the hub's own errors, those of its HTTP client and of sockets
        return Found(source, None, None, f"not downloaded yet, and the hub was not reached: {type(error).__name__}")
    nbytes = sum(file.size or 0 for file in info.siblings or [] if file.rfilename.endswith(".safetensors"))
    return Found(source, None, nbytes, "on the hub, to be downloaded")
