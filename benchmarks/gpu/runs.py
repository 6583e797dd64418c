"""Whole runs through the front door: alone and shared, killed and taken up again, of 1 B and of 7 B parameters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import family
from benchmarks.gpu.family import Family
from benchmarks.gpu.place import GIB, Place, Row, bytes_of, processors
from src.config import Settings
from src.models.checkpoint import open_checkpoint
from src.models.digest import of_files
from src.models.methods.forecast import forecast

ROOT = Path(__file__).parents[2]
GENERATIONS = 2
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


def environment() -> dict[str, str]:
    """Return the environment of a run: nothing is asked of the hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}


# --- two processes on one GPU, and a run that is killed --------------------------------------------------------------


def shared(place: Place) -> Iterator[Row]:
    """Run an evolution in one process, in two that share the GPU, and in one that is killed and started again."""
    made = family.generate(place.folder / "few", place.sizes.small, 3, place.device)
    tasks = place.folder / "tasks"
    rules = ["strategy=kinship_topk", "strategy.k=3", "merge=linear", f"stop.generations={GENERATIONS}"]
    rules += ["stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "evaluate.holdout=0.5", "keep=all"]
    rules += ["workers.threads=2"]

    def command(name: str, launcher: Sequence[str] = (), *more: str) -> list[str]:
        return [sys.executable, *launcher, "-m", "src.run", *arguments(place, made, tasks, name, *rules, *more)]

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
    yield from _killed(command("killed"), folder / "killed", wanted, folder / "alone")


def _killed(command: list[str], folder: Path, wanted: list[Any], other: Path) -> Iterator[Row]:
    """Kill a run as soon as its journal tells of a merge, and start it again."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    try:
        while process.poll() is None and "merged" not in [event["event"] for event in events(folder)]:
            time.sleep(0.02)
    finally:
        process.kill()
    status = process.wait()
    at = len(events(folder))
    began = time.perf_counter()
    do(command)
    seconds = time.perf_counter() - began
    found = told(folder)
    yield Row(
        "killed (SIGKILL) at its first merge, started again",
        f"{seconds:.1f} s from event {at} on",
        held=status == -signal.SIGKILL,
    )
    yield Row("its journal", _same(found, wanted), "of the run that was left alone", found == wanted)
    same = [_weights(path) for path in (folder / "best", other / "best")]
    yield Row("its winner's weights", same[0][:12], same[1][:12], same[0] == same[1])


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


# --- a whole run at size, by phase ----------------------------------------------------------------------------------


def one(place: Place) -> Iterator[Row]:
    """Merge the founders of 1 B parameters at once and evaluate everything."""
    yield from _whole(place, place.sizes.name("1 B"), family.at(place.folder / "one"), place.elsewhere / "outputs")
    shutil.rmtree(place.folder / "one")


def large(place: Place) -> Iterator[Row]:
    """Do the same with the largest family that there is room for."""
    for name, shapes in place.sizes.large:
        size = bytes_of(shapes)
        room = place.room(3 * size)
        made = family.generate(room / "large", shapes, 2, place.device) if room else None
        outputs = place.room(int(2.2 * size))
        if made and outputs:
            rate = made.nbytes / made.seconds / 1e9
            yield Row(f"{name}: three models drawn and written", f"{made.seconds:.0f} s, {rate:.1f} GB/s, to {room}")
            torch.cuda.empty_cache()
            yield from _whole(place, name, made, outputs / "outputs")
        else:
            yield Row(f"{name}, {size / 1e9:.1f} GB a model", "left out: no room for a base, two founders and the run")
        if room:
            shutil.rmtree(room / "large")
        if made and outputs:
            return


def _whole(place: Place, name: str, made: Family, outputs: Path) -> Iterator[Row]:
    base = open_checkpoint(made.folders[0])
    founders = {model: open_checkpoint(path) for model, path in made.models.items()}
    said = forecast("wudi", base, founders, len(founders), device=place.device, threads=processors())
    tasks = place.folder / "tasks"
    rules = ["merge=wudi", "evaluate.limit=1000", f"outputs={outputs}"]
    override, run = arguments(place, made, tasks, "whole", *rules), outputs / "whole"
    phases, seconds, status = followed([sys.executable, "-m", "src.run", *override], run, place)
    yield Row(
        f"{name} ({base.nbytes / 1e9:.1f} GB), {len(founders)} founders by wudi: the whole run",
        f"{seconds:.0f} s, status {status}",
        "the plan: " + "; ".join(said),
        status == 0,
    )
    for phase in phases:
        gpu = f", {phase.gpu / GIB:.1f} on the GPU" if place.gpu else ""
        yield Row(
            f"{name}: until {phase.until}",
            f"{phase.seconds:.1f} s",
            f"{phase.host / GIB:.1f} GiB of the processors'{gpu}",
        )
    shutil.rmtree(run, ignore_errors=True)


@dataclass(frozen=True)
class Phase:
    """What passed until an event of the journal."""

    until: str
    seconds: float
    host: int
    """Bytes allocated at most, without mapped files."""
    gpu: int
    """Bytes of the GPU in use at most, by anybody, above what was before."""


def followed(command: list[str], run: Path, place: Place) -> tuple[list[Phase], float, int]:
    """Run a command and say what passed between the events of its journal; also its seconds and exit status."""
    before = _used(place)
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    began = since = time.perf_counter()
    phases: list[Phase] = []
    host = gpu = 0
    seen = 0

    def close(label: str) -> None:
        nonlocal since, host, gpu
        now = time.perf_counter()
        phases.append(Phase(label, now - since, host, gpu))
        since, host, gpu = now, 0, 0

    while process.poll() is None:
        threading.Event().wait(0.05)
        host, gpu = max(host, _allocated(process.pid)), max(gpu, _used(place) - before)
        lines = events(run)
        for event in lines[seen:]:
            if event["event"] in {"measured", "evaluated", "merged", "held_out", "stopped"}:
                close(f"{event['event']} {event.get('model', '')}".strip())
        seen = len(lines)
    close("the end")
    return phases, time.perf_counter() - began, process.returncode


def _used(place: Place) -> int:
    if not place.gpu:
        return 0
    free, total = torch.cuda.mem_get_info(place.device)
    return total - free


def _allocated(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return 1024 * int(status.split("RssAnon:")[1].split()[0])
    except (OSError, IndexError):
        return 0
