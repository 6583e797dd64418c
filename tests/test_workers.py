"""Work shared among processes: one contract for one process and for several, and what happens when one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState

from src.config import Workers as Settings
from src.runtime import workers
from src.runtime.errors import MachineError, UserError
from src.runtime.opening import READING
from src.runtime.workers import Workers
from tests import processes

Task = Callable[[Workers], Any]


def settings(**changes: Any) -> Settings:
    return Settings(**{"device": "cpu", "threads": 1, "gpus_per_model": 1, "timeout": 1.0, **changes})


def together(count: int, folder: Path, task: Task, **changes: Any) -> tuple[list[int], list[Any]]:
    """Exit status of each process, and what the task returned in each."""

    def work(rank: int) -> int:
        with Workers(**settings(**changes).model_dump()) as workers:
            (folder / f"result.{rank}").write_text(json.dumps(task(workers)))
        return 0

    status = processes.wait(processes.start(count, work, folder / "output"))
    files = [folder / f"result.{rank}" for rank in range(count)]
    return status, [json.loads(file.read_text()) if file.exists() else None for file in files]


def noted(folder: Path, job: Callable[[int], Any]) -> Callable[[int], Any]:
    """The job, which notes by whom each item was done."""

    def noting(item: int) -> Any:
        result = job(item)
        with (folder / "done").open("a") as file:
            file.write(f"{item} {os.getpid()}\n")
        return result

    return noting


def done(folder: Path) -> list[tuple[int, int]]:
    lines = [line.split() for line in (folder / "done").read_text().splitlines()]
    return [(int(item), int(pid)) for item, pid in lines]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_item_is_done_once_and_everybody_has_all_results_in_order(tmp_path: Path, count: int) -> None:
    def job(item: int) -> dict[str, Any]:
        time.sleep(0.2 if item == 0 else 0.01)  # the first comes last
        return {"item": item, "tenth": item / 10, "nothing": None}

    def task(workers: Workers) -> Any:
        first = list(workers.map("map 1", noted(tmp_path, job), range(12)))
        return [first, list(workers.map("map 2", job, [])), list(workers.map("map 3", lambda item: item * 2, [5]))]

    status, results = together(count, tmp_path, task)
    expected = [[{"item": i, "tenth": i / 10, "nothing": None} for i in range(12)], [], [10]]
    assert status == [0] * count
    assert results == [expected] * count
    assert sorted(item for item, _ in done(tmp_path)) == list(range(12))


@pytest.mark.parametrize("count", [1, 2])
def test_arrays_travel_bit_for_bit_and_large_ones_in_parts(tmp_path: Path, count: int) -> None:
    def job(seed: int) -> list[Any]:
        numbers = np.random.default_rng(seed).standard_normal((3, 5, 40_000 if seed else 2))
        numbers[0, 0, 0] = np.nan
        return [numbers, numbers.sum(axis=0)]

    def task(workers: Workers) -> Any:
        found = list(workers.map("map 4", job, [0, 1]))
        return all(np.array_equal(a, b, equal_nan=True) for s in (0, 1) for a, b in zip(found[s], job(s), strict=True))

    assert together(count, tmp_path, task) == ([0] * count, [True] * count)


def test_whoever_is_free_takes_the_next_item(tmp_path: Path) -> None:
    job = noted(tmp_path, lambda item: time.sleep(1.0 if item == 0 else 0.1))
    status, idle = together(
        2, tmp_path, lambda workers: [len(list(workers.map("map 5", job, range(8)))), workers.idle][1]
    )
    assert status == [0, 0]
    shares = Counter(pid for _, pid in done(tmp_path))
    assert sorted(shares.values()) == [1, 7]
    assert max(idle) < 0.9


def test_a_process_without_an_item_helps_with_one_that_is_under_way(tmp_path: Path) -> None:
    def task(workers: Workers) -> Any:
        piece = noted(tmp_path, lambda number: [time.sleep(0.05), number / 7][1])
        began = time.monotonic()
        found = list(workers.map("map 6", lambda item: [item, *workers.share(20, piece)], ["only"], divisible=True))
        return [found, time.monotonic() - began]

    status, results = together(2, tmp_path, task)
    assert status == [0, 0]
    assert [found for found, _ in results] == [[["only", *(number / 7 for number in range(20))]]] * 2
    shares = Counter(pid for _, pid in done(tmp_path))
    assert sum(shares.values()) == 20
    assert min(shares.values()) >= 7
    assert max(seconds for _, seconds in results) < 0.9  # one alone takes a second


def test_a_helper_that_fails_leaves_its_piece_to_the_owner(tmp_path: Path) -> None:
    def task(workers: Workers) -> Any:
        def piece(number: int) -> int:
            time.sleep(0.02)
            if workers.assisting:
                raise MemoryError("too large for me")
            return number

        return list(workers.map("map 7", lambda _: workers.share(10, piece), ["only"], divisible=True))

    assert together(2, tmp_path, task) == ([0, 0], [[list(range(10))]] * 2)


def test_a_job_that_is_begun_again_has_the_pieces_that_were_answered_already(tmp_path: Path) -> None:
    def task(workers: Workers) -> Any:
        failed = []

        def piece(number: int) -> int:
            time.sleep(0.02)
            if not workers.assisting and not failed:
                failed.append(number)
                raise MemoryError("for a moment")
            return number

        counted = noted(tmp_path, piece)

        def job(_: str) -> list[int]:
            try:
                return workers.share(20, counted)
            except MemoryError:
                return workers.share(20, counted)

        return list(workers.map("map 8", job, ["only"], divisible=True))

    assert together(2, tmp_path, task) == ([0, 0], [[list(range(20))]] * 2)
    assert sorted(item for item, _ in done(tmp_path)) == list(range(20))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_the_main_process_hands_out_is_done_by_all(tmp_path: Path, count: int) -> None:
    def task(workers: Workers) -> Any:
        about: list[Any] = []

        def assist(order: Any) -> Callable[[int], Any]:
            about.append(order)
            if order is None:
                return lambda number: None
            return noted(tmp_path, lambda number: [time.sleep(0.02), order["factor"] * number][1])

        def job() -> Any:
            factors = np.linspace(0.1, 0.7, 5)
            workers.hand_out({"factor": factors}, 0, assist({"factor": factors}))
            return [workers.hand_out({"factor": f}, 9, assist({"factor": f})) for f in factors]

        first = workers.in_main("handed out", job, assist)
        return [first, workers.in_main("nothing handed out", lambda: "done", assist), len(about)]

    status, results = together(count, tmp_path, task)
    assert status == [0] * count
    assert [one[:2] for one in results] == [
        [[[f * number for number in range(9)] for f in np.linspace(0.1, 0.7, 5)], "done"]
    ] * count
    assert [seen for *_, seen in results] == [6] + [8] * (count - 1)  # the others are told twice that it is the end
    by_whom = Counter(pid for _, pid in done(tmp_path))
    assert sum(by_whom.values()) == 45
    assert len(by_whom) == count


def test_who_cannot_assist_leaves_what_is_handed_out_to_the_main_process(tmp_path: Path) -> None:
    def task(workers: Workers) -> Any:
        def piece(number: int) -> int:
            time.sleep(0.02)
            if workers.assisting:
                raise MemoryError("too large for me")
            return number

        job = lambda: [workers.hand_out("order", 8, piece) for _ in range(3)]  # noqa: E731
        return workers.in_main("handed out", job, lambda order: piece)

    assert together(2, tmp_path, task) == ([0, 0], [[list(range(8))] * 3] * 2)
    warning = "warning: handed out: process 1 could not, MemoryError: too large for me; process 0 does it\n"
    assert (tmp_path / "output.0").read_text() == warning


def test_once_is_done_by_the_main_process_and_gather_hears_everybody(tmp_path: Path) -> None:
    def task(workers: Workers) -> Any:
        return [
            workers.in_main("once", lambda: f"by {workers.rank}"),
            workers.gather("gather", workers.rank),
            workers.threads,
        ]

    assert together(2, tmp_path, task) == ([0, 0], [["by 0", [0, 1], 1]] * 2)


@pytest.mark.parametrize(("guilty", "kind", "status"), [(0, UserError, 2), (1, UserError, 2), (1, MachineError, 1)])
def test_a_mistake_met_by_one_ends_all_in_one_line(
    tmp_path: Path, guilty: int, kind: type[Exception], status: int
) -> None:
    def task(workers: Workers) -> None:
        def job(item: int) -> None:
            time.sleep(0.1)
            if workers.rank == guilty and item > 2:
                raise kind("the disk of /x is full")

        list(workers.map("map 9", job, range(1000)))

    def work(rank: int) -> int:
        from src.run import _refuse

        try:
            with Workers(**settings().model_dump()) as workers:
                task(workers)
        except kind as error:
            if rank == 0:
                _refuse(str(error))
            return status
        return 0

    assert processes.wait(processes.start(2, work, tmp_path / "output")) == [status, status]
    said = "".join((tmp_path / f"output.{rank}").read_text() for rank in (0, 1))
    assert said == "error: the disk of /x is full\n"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others_and_is_named(tmp_path: Path, victim: int) -> None:
    def task(workers: Workers) -> None:
        list(workers.map("map 10", lambda _: time.sleep(0.2), range(1000)))

    def work(rank: int) -> int:
        with Workers(**settings().model_dump()) as workers:
            (tmp_path / f"up.{rank}").touch()
            task(workers)
        return 0

    pids = processes.start(2, work, tmp_path / "output")
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"up.{rank}").exists() for rank in (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.kill(pids[victim], signal.SIGKILL)
    began = time.monotonic()
    status = processes.wait(pids)
    assert time.monotonic() - began < 30
    assert status[victim] == -signal.SIGKILL
    assert status[1 - victim] == 1
    said = (tmp_path / f"output.{1 - victim}").read_text()
    assert f"error: process {victim}" in said
    assert "the same command goes on from here" in said


@pytest.mark.parametrize("frozen", [False, True])
def test_a_process_that_hangs_is_found_by_the_timeout(tmp_path: Path, frozen: bool) -> None:
    def task(workers: Workers) -> None:
        def job(item: int) -> None:
            if workers.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP) if frozen else time.sleep(600)
            time.sleep(0.1)

        list(workers.map("map 11", job, range(100)))

    def work(rank: int) -> int:
        with Workers(**settings(timeout=0.05).model_dump()) as workers:
            task(workers)
        return 0

    pids = processes.start(2, work, tmp_path / "output")
    deadline = time.monotonic() + 60
    while os.waitpid(pids[0], os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if frozen:
        os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
    said = (tmp_path / "output.0").read_text()
    assert "error: process 1" in said
    assert "hangs" in said
    assert "0.05 minutes (workers.timeout)" in said


# --- a launch that went wrong ----------------------------------------------------------------------------------------


def launched(*overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "src.run", *overrides],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_accelerate_launch_that_started_one_process_instead_of_several_is_refused(tmp_path: Path) -> None:
    environment = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}
    outcome = launched("track=none", f"outputs={tmp_path}", **environment)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(
        f"{READING}\nerror: accelerate launch was asked for several processes and started one"
    )
    assert "torchrun --nproc_per_node" in outcome.stderr


def test_a_process_that_finds_itself_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState(cpu=True)  # as accelerate sees it where the launcher told it nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started and this one finds itself alone"):
        Workers(**settings().model_dump())


def test_there_must_be_gpus_for_a_model_that_is_spread() -> None:
    with pytest.raises(UserError, match=r"gpus_per_model is 2, and there is no GPU here"):
        Workers(**settings(gpus_per_model=2).model_dump())


@pytest.mark.parametrize(
    ("local", "each", "sharing", "devices"),
    [
        (1, 1, 1, ("cuda:1",)),
        (1, 1, 2, ("cuda:0",)),
        (2, 1, 2, ("cuda:1",)),
        (0, 2, 1, ("cuda:0", "cuda:1")),
    ],
)
def test_gpus_are_given_to_processes(
    local: int, each: int, sharing: int, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 2, processes=local + 1)
    assert workers._devices(process_on_gpu(local), each, sharing) == devices


@pytest.mark.parametrize(("processes", "each", "sharing", "wanted"), [(3, 1, 1, 3), (2, 2, 1, 4), (5, 1, 2, 3)])
def test_there_must_be_gpus_for_all_processes(
    processes: int, each: int, sharing: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 2, processes=processes)
    with pytest.raises(UserError, match=f"{processes} processes with .* need {wanted} GPUs; 2 are here"):
        workers._devices(process_on_gpu(0), each, sharing)


def test_a_model_on_two_gpus_shares_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2, processes=2)
    with pytest.raises(UserError, match=r"gpus_per_model is 2 and workers.processes_per_gpu 2; expected 1"):
        workers._devices(process_on_gpu(0), 2, 2)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, processes: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))


def process_on_gpu(local: int) -> Any:
    return SimpleNamespace(device=torch.device("cuda", local), local_process_index=local)
