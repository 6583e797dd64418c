"""A run on a disk that fails on purpose, over and over: python -m tests.faults FOLDER COUNT, with faults.c preloaded.

Everything is imported once; each start of a run is a fork. What came of a fault is a line of JSON on stdout.
"""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.family import TASKS, write_family
from tests.processes import wait
from tests.test_run import ALL_RULES_OFF, events

ROOT = Path(__file__).parent.parent
ERRNOS = {
    "open": ("ENOSPC", "EMFILE", "EIO", "EROFS", "EDQUOT"),
    "mkdir": ("ENOSPC", "EROFS", "EDQUOT"),
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "truncate": ("EIO",),
    "sync": ("EIO", "ENOSPC", "EDQUOT"),
    "link": ("EIO", "EROFS", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
}
STARTS = 3
"""Of a run: the one that meets the fault, and two more."""


@dataclass(frozen=True)
class Fault:
    """An operation of the disk that fails."""

    number: int
    """Of the operation, from 1, among all that a run does."""
    kind: str
    """One of ERRNOS."""
    path: str
    """What it is done to, below the folder of all outputs."""
    errno: str
    lasting: bool
    """Whether all operations after it fail too."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    fault: Fault
    starts: Sequence[tuple[int, str]]
    """Exit status and stderr of each start, until one ends with 0."""
    same: bool
    """Whether journal and winner are those of a run that met no fault."""

    def __str__(self) -> str:
        return f"{self.fault}\n" + "\n".join(f"--- status {status}\n{err}" for status, err in self.starts)


def library(folder: Path) -> Path | None:
    """faults.c, compiled into a folder; None where there is no compiler, or no way to preload anything."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made = folder / "faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(ROOT / "tests/faults.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def siege(preloaded: Path, folder: Path, faults: int) -> list[Outcome]:
    """What comes of so many faults, spread over all that a run does to its disk."""
    command = [sys.executable, "-m", "tests.faults", str(folder), str(faults)]
    environment = {**os.environ, "LD_PRELOAD": str(preloaded)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    return [Outcome(Fault(**one["fault"]), [tuple(start) for start in one["starts"]], one["same"]) for one in found]


def main(folder: Path, faults: int) -> None:
    """Run once without a fault, and then with each of so many."""
    from src.evaluation import candidates
    from src.runtime import errors
    from tests.test_kills import FakeEvaluator

    errors.PAUSES = (0.0, 0.0)
    candidates.Evaluator = FakeEvaluator  # type: ignore[assignment,misc]
    family = write_family(folder / "family", ("red", "green", "blue"))
    outputs = folder / "outputs"  # the same for all: it is told in the journal
    log = folder / "log"
    status, err = start(family, outputs, FAULT_BELOW=outputs, FAULT_LOG=log)
    assert status == 0, err
    expected = left_by(outputs)
    done = [tuple(line.split(" ", 1)) for line in log.read_text().splitlines()]
    for fault in chosen([(kind, path.removeprefix(f"{outputs}/")) for kind, path in done], faults):
        shutil.rmtree(outputs)
        injected = {
            "FAULT_AT": fault.number,
            "FAULT_ERRNO": getattr(errno, fault.errno),
            "FAULT_LASTING": fault.lasting,
        }
        starts = [start(family, outputs, FAULT_BELOW=outputs, **{key: int(value) for key, value in injected.items()})]
        while starts[-1][0] != 0 and len(starts) < STARTS:
            starts.append(start(family, outputs))
        print(json.dumps(asdict(Outcome(fault, starts, left_by(outputs) == expected))), flush=True)


def chosen(operations: Sequence[tuple[str, str]], count: int) -> list[Fault]:
    """So many of the operations: of each kind, in each part of the outputs, as evenly as there are."""
    strata: dict[tuple[str, str], list[int]] = {}
    for number, (kind, path) in enumerate(operations, 1):
        strata.setdefault((kind, _part(path)), []).append(number)
    shares = dict.fromkeys(strata, 0)
    order = sorted(strata)
    random.Random(count).shuffle(order)
    for _ in range(min(count, len(operations))):
        left = [stratum for stratum in order if shares[stratum] < len(strata[stratum])]
        shares[min(left, key=lambda stratum: shares[stratum])] += 1
    faults: list[Fault] = []
    for (kind, part), numbers in strata.items():
        share = shares[kind, part]
        for turn in range(share):
            number = numbers[(2 * turn + 1) * len(numbers) // (2 * share)]
            codes = ERRNOS[kind]
            code = codes[(turn + number) % len(codes)]
            path = operations[number - 1][1]
            own = path in {"run", "run/journal.jsonl"} and kind in {"open", "mkdir"}
            faults.append(Fault(number, kind, path, "ENOSPC" if own else code, lasting=len(faults) % 2 == 1))
    return faults


def _part(path: str) -> str:
    """The part of the outputs that a path is in."""
    first, _, rest = path.partition("/")
    second = rest.partition("/")[0].lstrip(".").partition(".")[0]
    return f"{first}/{second}"


def start(family: Path, outputs: Path, **environment: object) -> tuple[int, str]:
    """Exit status of one start of the run, in a process of its own, and what it said on stderr."""
    said = outputs.parent / "stderr"
    pid = os.fork()
    if pid:
        return wait([pid])[0], said.read_text()
    status = 99
    try:
        for name, value in environment.items():
            os.environ[name] = str(value)
        with said.open("w") as file, Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = _run(family, outputs)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _run(family: Path, outputs: Path) -> int:
    from src.run import main as front_door

    models = ",".join(f"{name}:{family / name}" for name in ("red", "green", "blue"))
    sys.argv = [
        *(
            "src.run",
            "strategy=kinship_topk",
            "founders=local",
            f"founders.base={family / 'base'}",
            f"founders.models={{{models}}}",
        ),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.holdout=0.5"),
        *(f"outputs={outputs}", "name=run", "track=none", "cache.weights=true", "workers.threads=1"),
        *("stop.generations=2", "merge=dare_ties", *ALL_RULES_OFF),
    ]
    front_door()
    return 0


def left_by(outputs: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """A run's journal without what may differ, and the winner's files."""
    best = outputs / "run/best"
    journal = events(outputs) if (outputs / "run/journal.jsonl").exists() else []
    files = {file.name: file.read_bytes() for file in best.iterdir()} if best.is_dir() else {}
    if "README.md" in files:  # it says when the run began
        files["README.md"] = re.sub(rb"\| date \| [^|]*\|", b"| date | |", files["README.md"])
    return journal, files


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
