"""One evolution by several processes: the same journal as by one, whoever is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src import journal
from src.evaluation import evaluator
from src.evaluation.evaluator import Evaluation
from src.runtime.workers import Workers
from tests import processes
from tests.conftest import run
from tests.family import FOUNDERS, SAMPLES, TASKS
from tests.test_run import ALL_RULES_OFF, events

ROOT = Path(__file__).parent.parent


def command(family: Path, outputs: Path, name: str, *overrides: str) -> list[str]:
    models = ",".join(f"{founder}:{family / founder}" for founder in FOUNDERS)
    return [
        *(
            "strategy=kinship_topk",
            "founders=local",
            f"founders.base={family / 'base'}",
            f"founders.models={{{models}}}",
        ),
        *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.batch_size=16"),
        *(f"outputs={outputs}", f"name={name}", "track=none", "cache=off", "workers.threads=1"),
        *("workers.timeout=2", "stop.generations=2", *ALL_RULES_OFF, *overrides),
    ]


def told(outputs: Path, name: str) -> list[dict[str, Any]]:
    """A journal without what may differ between runs."""
    found: list[dict[str, Any]] = events(outputs, name)
    found[0] = {key: value for key, value in found[0].items() if key != "settings"}  # the runs' names
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        ("merge=dare_ties",),
        ("merge=wudi",),
        ("merge=ties", "merge.treatment.lines.beta=0.5", "merge.treatment.svc=1"),
        ("strategy=greedy_topk",),
    ],
)
def test_the_journals_of_one_process_and_of_several_are_the_same(
    family: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    for count in (1, 3):
        arguments = command(family, tmp_path, f"by-{count}", *overrides)
        status = processes.wait(processes.start(count, lambda _, a=arguments: run(*a).status, tmp_path / f"out{count}"))  # type: ignore[misc]
        assert status == [0] * count, (tmp_path / f"out{count}.0").read_text()
    assert told(tmp_path, "by-1") == told(tmp_path, "by-3")
    for file in (tmp_path / "by-1").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "by-3" / file.relative_to(tmp_path / "by-1")).read_bytes()
    assert {p.name for p in (tmp_path / "by-1/models").iterdir()} == {
        p.name for p in (tmp_path / "by-3/models").iterdir()
    }


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_either_process_may_be_killed_at_any_moment(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Evaluations are counted where they end: beside the file that keeps what was found."""
    real = Evaluation.save

    def counted(self: Evaluation, path: Path, key: str) -> None:
        known = path.exists()
        real(self, path, key)
        if not known:
            return
        with (path.parent.parent / "again").open("a") as file:
            file.write(f"{path.stem}\n")

    monkeypatch.setattr(Evaluation, "save", counted)
    meet, met = Workers.__init__, tmp_path / "met"

    def noted(self: Workers, **settings: Any) -> None:
        meet(self, **settings)
        if self.main:
            met.touch()

    monkeypatch.setattr(Workers, "__init__", noted)

    def start(name: str, count: int) -> list[int]:
        met.unlink(missing_ok=True)
        return processes.start(count, lambda _: run(*command(family, tmp_path, name)).status, tmp_path / "output")

    began = time.monotonic()
    assert processes.wait(start("whole", 2)) == [0, 0]
    usual = time.monotonic() - began
    draw, kills, runs = random.Random(times), 0, 0
    while kills < times:
        runs += 1
        name, status = f"run-{runs}", [-1]
        while status != [0, 0]:
            pids = start(name, 2)
            if kills < times:
                deadline = time.monotonic() + 60
                while not met.exists():  # of who died before, a launcher tells; the others can only wait
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 0.7 * usual))
                os.kill(pids[draw.randrange(2)], signal.SIGKILL)
                kills += 1
            status = processes.wait(pids)
            said = (tmp_path / "output.0").read_text() + (tmp_path / "output.1").read_text()
            assert all(one in {0, 1, 2, -signal.SIGKILL} for one in status), said
        assert told(tmp_path, name) == told(tmp_path, "whole")
        assert not (tmp_path / name / "again").exists(), "what was finished was done again"
        assert not list((tmp_path / name / "models").glob(".*"))


@pytest.mark.slow
def test_a_restart_by_the_launcher_goes_on_by_itself(family: Path, tmp_path: Path) -> None:
    """A process dies once, in the middle of the run; torchrun starts both again."""
    script = tmp_path / "dies_once.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from src.evaluation.evaluator import Evaluator\n"
        "real, mark = Evaluator.evaluate, Path(sys.argv[0] + '.died')\n"
        "def evaluate(self, folder, *rest):\n"
        "    found = real(self, folder, *rest)\n"
        "    if '1-' in folder.name and os.environ['RANK'] == '1' and not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return found\n"
        "Evaluator.evaluate = evaluate\n"
        "from src.run import main\n"
        "main()\n"
    )
    arguments = command(family, tmp_path, "run", f"hydra.run.dir={tmp_path}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1", str(script)]
    done = subprocess.run([*launcher, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dies_once.py.died").exists()
    assert processes.wait(processes.start(1, lambda _: run(*command(family, tmp_path, "whole")).status)) == [0]
    assert told(tmp_path, "run") == told(tmp_path, "whole")


def test_on_disk_or_in_memory_the_scores_are_the_same(family: Path, tmp_path: Path) -> None:
    arguments = command(family, tmp_path, "run", "keep=all")
    assert run(*arguments).status == 0
    state = journal.replay(journal.parse(tmp_path / "run/journal.jsonl")[0])
    from tests.test_conf import settings as composed

    asked = composed(*[a for a in arguments if a.startswith("evaluate")]).evaluate
    ready = evaluator.Evaluator(asked, seed=0)
    for model in state.population:
        if model.parents:
            found = ready.evaluate(tmp_path / "run/models" / model.name)
            assert dict(model.scores) == dict(found.scores)
            assert model.average == found.average


def test_pieces_are_answered_alike_whoever_answers_and_however_much_fits(family: Path) -> None:
    from tests.test_conf import settings as composed

    overrides = [f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.batch_size=8"]
    first, second = (evaluator.Evaluator(composed(*overrides).evaluate, seed=0) for _ in range(2))
    whole = first.evaluate(family / "red")
    taken: Counter[str] = Counter()

    def between_two(count: int, answer: Callable[[int], list[Any]]) -> list[list[Any]]:
        loaded, _, pieces = second._models.load(family / "red", None, second._asked)
        found = []
        for number in range(count):
            taken["second" if number % 2 else "first"] += 1
            found.append(loaded.answer(pieces[number], second.requests) if number % 2 else answer(number))
        return found

    assert first.evaluate(family / "red", share=between_two) == whole
    assert min(taken.values()) >= 2
    assert whole.count == len(TASKS) * SAMPLES // 2  # the other half is held out
