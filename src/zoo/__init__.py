"""The embedded family: a tiny base, founders fine-tuned from it, and the lm-eval tasks that tell them apart.

| module | what it is |
| --- | --- |
| skills | the questions: drawn from a seed, split for ever into training and test |
| family | the models: a base on a mix of all skills, a founder for each |
| tasks | the lm-eval tasks, written beside the models |
| questions | what lm-eval loads from the folder of tasks to read them |

It shows on two cores, in minutes, what merging does to real families: `build` makes it, `python -m src.zoo FOLDER`
does the same from the shell.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError
from src.zoo import skills

# Raise it whenever a change makes other models, other tasks or another reader: folders of an older recipe are rebuilt.
RECIPE = 1

FOUNDERS: tuple[str, ...] = tuple(skills.SKILLS)
TASKS: tuple[str, ...] = tuple(skills.DRAWS)
READER = {"questions.Questions": Path(__file__).with_name("questions.py").read_bytes()}
"""The only Python beside the family's tasks: its source by lm-eval's reference to it."""

Progress = Callable[[str, int, int], None]


def build(folder: Path, seed: int = 0, *, effort: float = 1.0, progress: Progress | None = None) -> None:
    """Build the family of a seed in `folder`, unless it is there already.

    Writes `base/` and a folder for each of `FOUNDERS` (Hugging Face checkpoints), `tasks/` (YAML and JSONL for lm-eval)
    and `manifest.json`. Everything is made in a temporary folder beside it and renamed when whole, so what lies at
    `folder` is always a finished family. A family of another seed, effort or recipe is replaced.

    `effort` scales the training (0.05 gives, in seconds, a family that has learned next to nothing); `progress`
    is called with the stage, and how much of how much of it is done.

    Raises `UserError` where `folder` exists and is no family, and where the seed or the effort makes no sense.
    """
    if seed < 0:
        raise UserError(f"The family's seed is {seed}; it must be 0 or greater.")
    if not 0 < effort <= 10:
        raise UserError(
            f"The effort is {effort}; it must be greater than 0 (1 trains the family in full) and at most 10."
        )
    wanted: dict[str, object] = {"seed": seed, "effort": effort, "recipe": RECIPE}
    folder = folder.resolve()
    if _manifest(folder).items() >= wanted.items():
        return
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or _manifest(folder))):
        raise UserError(f"{folder} exists and is no family of ours: it would be overwritten. Name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not _manifest(folder).items() >= wanted.items():  # another process may have built it while this one waited
            _build(folder, wanted, progress or (lambda stage, done, total: None))


def _build(folder: Path, wanted: dict[str, object], progress: Progress) -> None:
    from src.zoo import family, tasks  # torch and transformers, seconds: only where something is to be built

    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # of a build that was killed: nobody else builds here now
        shutil.rmtree(left)
    seed, effort = int(str(wanted["seed"])), float(str(wanted["effort"]))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        made = Path(temporary) / "new"
        (made / "tasks").mkdir(parents=True)
        tasks.write(made / "tasks", skills.World.of(seed), RECIPE)
        parameters = family.raise_family(made, seed, effort, progress)
        manifest = wanted | {"parameters": parameters, "base": "base", "founders": FOUNDERS, "tasks": TASKS}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        made.rename(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a family's place: one process builds, others that want the same wait."""
    import fcntl

    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(folder: Path) -> dict[str, object]:
    """Read a family's manifest; empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
