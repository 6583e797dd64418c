"""Whole runs through the front door: alone and shared, killed and taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import family, forked
from benchmarks.gpu.family import Family
from benchmarks.gpu.place import ROOT, Place, Row, environment
from src.config import Settings
from src.models.checkpoint import open_checkpoint
from src.models.digest import of_files

TIMES = ("n", "crc", "seconds", "cached")
"""What two journals of the same run may differ in."""


def arguments(place: Place, made: Family, tasks: Path, name: str, *more: str) -> list[str]:
    """Return the overrides of a run over a family, with nothing remembered of any other."""
    models = ",".join(f"{model}: {path}" for model, path in made.models.items())
    return [
        *("founders=local", f"founders.base={made.folders[0]}", f"founders.models={{{models}}}"),
        *("evaluate=paper", f"evaluate.tasks=[{family.TASK}]", f"evaluate.include={tasks}", "track=none", "cache=off"),
        *(f"name={name}", f"outputs={place.elsewhere / 'outputs'}", f"workers.device={'auto' if place.gpu else 'cpu'}"),
        *more,
    ]


def configured(place: Place, made: Family, tasks: Path, name: str, *more: str) -> Settings:
    """Return the settings of such a run."""
    from hydra import compose, initialize_config_dir

    from src import config

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return config.read(compose("config", arguments(place, made, tasks, name, *more)))


def do(command: Sequence[str]) -> None:
    """Run a program to its end; what it says is in the log.

    Raises:
        RuntimeError: it failed.
    """
    status = subprocess.run(command, cwd=ROOT, env=environment()).returncode
    if status:
        raise RuntimeError(f"{' '.join(command[1:5])} … ended with status {status}; the log has what it said")


# --- two processes on one GPU, and a run that is killed --------------------------------------------------------------


def shared(place: Place) -> Iterator[Row]:
    """Run an evolution in one process, and in two that share the GPU."""
    made = forked.call(family.generate, place.folder / "few", place.sizes.small, 3, place.device)

    def command(name: str, launcher: Sequence[str] = (), *more: str) -> list[str]:
        return [sys.executable, *launcher, "-m", "src.run", *_evolution(place, made, name, 2), *more]

    folder = place.elsewhere / "outputs"
    began = time.perf_counter()
    do(command("alone"))
    alone = time.perf_counter() - began
    wanted = told(folder / "alone")
    work = sum(event.get("seconds", 0) for event in events(folder / "alone") if event["event"] == "closed")
    yield Row(
        f"an evolution of {_evaluated(wanted)} evaluations ({place.sizes.name('135 M')}), one process",
        f"{alone:.1f} s, {work:.1f} s of them at work",
    )
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    if place.gpu:
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
        launcher += ["--mixed_precision=no", "--dynamo_backend=no"]
    began = time.perf_counter()
    do(command("both", launcher, "workers.processes_per_gpu=2"))
    seconds = time.perf_counter() - began
    shared_work = sum(event.get("seconds", 0) for event in events(folder / "both") if event["event"] == "closed")
    yield Row(
        "two processes that share the GPU",
        f"{seconds:.1f} s, {shared_work:.1f} s of them at work",
        f"one: {alone:.1f} s, {work:.1f} s",
    )
    yield Row("their journal", _same(told(folder / "both"), wanted), "of one process", told(folder / "both") == wanted)


def killed(place: Place) -> Iterator[Row]:
    """Kill a run as soon as its journal tells of a merge, start it again, and compare it with one left alone.

    Both begin at the same time.
    """
    making = forked.begin(family.generate, place.folder / "three", place.sizes.small, 3, place.device)
    forked.preload()
    made = making()
    folder, other = (place.elsewhere / "outputs" / name for name in ("killed", "left-alone"))
    command = _evolution(place, made, folder.name, 1)
    process, alone = forked.start(command), forked.start(_evolution(place, made, other.name, 1))
    try:
        while process.is_alive() and "merged" not in [event["event"] for event in events(folder)]:
            time.sleep(0.02)
    finally:
        process.kill()
    process.join()
    at = len(events(folder))
    began = time.perf_counter()
    again = forked.start(command)
    again.join()
    seconds = time.perf_counter() - began
    alone.join()
    found, wanted = told(folder), told(other)
    yield Row(
        f"killed (SIGKILL) at its first merge, started again ({place.sizes.name('135 M')})",
        f"{seconds:.1f} s from event {at} on; statuses {process.exitcode}, {again.exitcode}",
        "imports not counted",
        process.exitcode == -signal.SIGKILL and again.exitcode == alone.exitcode == 0 and at < len(wanted),
    )
    yield Row("its journal", _same(found, wanted), "of the run that was left alone", found == wanted)
    same = [_weights(path) for path in (folder / "best", other / "best")]
    yield Row("its winner's weights", same[0][:12], same[1][:12], same[0] == same[1])


def _evolution(place: Place, made: Family, name: str, generations: int) -> list[str]:
    rules = ["strategy=kinship_topk", "strategy.k=3", "merge=linear", f"stop.generations={generations}"]
    rules += ["stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "evaluate.holdout=0.5", "keep=all"]
    return arguments(place, made, place.folder / "tasks", name, *rules, "workers.threads=2")


def events(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's journal; a line that is being written is left out."""
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def told(folder: Path) -> list[dict[str, Any]]:
    """Return what a journal tells of the models, without the times."""
    kept = (event for event in events(folder) if event["event"] not in {"started", "resumed"})
    return [{key: value for key, value in event.items() if key not in TIMES} for event in kept]


def _same(found: list[Any], wanted: list[Any]) -> str:
    if found == wanted:
        return f"the same, {len(found)} events"
    pairs = zip(found, wanted, strict=False)
    first = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))
    print("journals differ:", found[first : first + 1], wanted[first : first + 1], sep="\n", flush=True)
    return f"DIFFERENT from event {first} on, of {len(found)} and {len(wanted)}"


def _evaluated(found: list[dict[str, Any]]) -> int:
    return sum(event["event"] in {"evaluated", "held_out"} for event in found)


def _weights(folder: Path) -> str:
    return of_files(open_checkpoint(folder).tensors.values(), {})
