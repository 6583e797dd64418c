"""The embedded family: a tiny base, founders fine-tuned from it, and the lm-eval tasks that tell them apart.

| module | what it is |
| --- | --- |
| skills | the questions: drawn from a seed, split permanently into training and test |
| family | the models: a base on a mix of all skills, a founder for each |
| tasks | the lm-eval tasks, written next to the models |
| questions | what lm-eval loads from the folder of tasks to read them |

It shows on two cores, in minutes, what merging does to real families: `build` makes it, `python -m src.zoo FOLDER`
does the same from the shell.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.runtime.errors import UserError
from src.runtime.files import partial_path, remove_abandoned, replacing_folder
from src.runtime.progress import note, whole
from src.zoo import skills

# Raise it whenever a change makes other models, other tasks or another reader: folders of an older recipe are rebuilt.
RECIPE = 1

FOUNDERS: tuple[str, ...] = tuple(skills.SKILLS)
TASKS: tuple[str, ...] = tuple(skills.DRAWS)
MARK = frozenset({"seed", "effort", "recipe", "parameters", "base", "founders", "tasks"})
"""What a family's manifest says, and no other program's: only a folder that carries it is ever replaced."""
READER = {"questions.Questions": Path(__file__).with_name("questions.py").read_bytes()}
"""The only Python among the family's tasks: its source by lm-eval's reference to it."""

Progress = Callable[[str, int, int], None]


def build(folder: Path, seed: int = 0, *, effort: float = 1.0, progress: Progress | None = None) -> None:
    """Build the family of a seed in `folder`, unless it is there already.

    Writes `base/` and a folder for each of `FOUNDERS` (Hugging Face checkpoints), `tasks/` (YAML and JSONL for lm-eval)
    and `manifest.json`. Everything is made in a partial folder beside it and renamed when whole, so what lies at
    `folder` is always a finished family. A family of another seed, effort or recipe is replaced, unless there is
    something in its folder that is not the family's.

    `effort` scales the training (0.05 gives, in seconds, a family that has learned next to nothing); `progress`
    is called with the stage, and how much of how much of it is done.

    Raises `UserError` where `folder` exists and is no family or more than one, where it cannot be written, and where
    the seed or the effort makes no sense.
    """
    if seed < 0:
        raise UserError(f"The family's seed is {seed}; it must be 0 or greater.")
    if not 0 < effort <= 10:
        raise UserError(
            f"The effort is {effort}; it must be greater than 0 (1 trains the family in full) and at most 10."
        )
    wanted = {"seed": seed, "effort": effort, "recipe": RECIPE}
    folder = folder.resolve()
    if _manifest(folder).items() >= wanted.items():
        return
    _refuse_other_content(folder)
    with _locked(folder):
        if not _manifest(folder).items() >= wanted.items():  # another process may have built it while this one waited
            _build(folder, seed, effort, progress or (lambda stage, done, total: None))


def prepare(folder: Path, seed: int, effort: float) -> None:
    """Build a family as `build` does, and show how far that is."""
    if not folder.exists():
        note(f"training the embedded family in {folder}: about two minutes on two cores")
    with tqdm(desc="training the embedded family", disable=None, leave=False) as bar:

        def progress(stage: str, done: int, total: int) -> None:
            bar.set_description(f"training the embedded family: {stage}", refresh=False)
            whole(bar)(done, total)

        build(folder, seed, effort=effort, progress=progress)


def _build(folder: Path, seed: int, effort: float, progress: Progress) -> None:
    from src.zoo import family, tasks  # torch and transformers, seconds: only where something is to be built

    remove_abandoned(folder.parent)
    old = partial_path(folder.with_name(f"{folder.name}.old"))
    try:
        with replacing_folder(folder) as made:
            (made / "tasks").mkdir()
            tasks.write(made / "tasks", skills.World.of(seed), RECIPE)
            manifest: dict[str, Any] = {"seed": seed, "effort": effort, "recipe": RECIPE}
            manifest["parameters"] = family.train_family(made, seed, effort, progress)
            manifest |= {"base": "base", "founders": FOUNDERS, "tasks": TASKS}
            (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _refuse_other_content(folder)
            if folder.exists():
                folder.rename(old)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_other_content(folder: Path) -> None:
    """Raise UserError where something lies at `folder` that is not a family's own."""
    if not folder.exists():
        return
    manifest = _manifest(folder)
    if not folder.is_dir() or (not manifest and any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no family of ours: it would be overwritten. Name another folder.")
    own = {"base", "tasks", "manifest.json", *map(str, manifest.get("founders") or ())}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in own):
        raise UserError(
            f"{folder} holds a family of other settings, and beside it {others[0]!r}, which would be lost with it. "
            "Move that, or name another folder."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a family's place: one process builds, others that want the same wait."""
    import fcntl

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("a")
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}: {error.filename}). Name another folder."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(folder: Path) -> dict[str, Any]:
    """Read a family's manifest; empty where there is none that can be read, or another program's."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.keys() >= MARK else {}
