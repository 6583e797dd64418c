"""How fast an evolution is: python -m benchmarks.evolution [scaling] [uneven] [overhead] [today], all by default.

On the embedded family (trained first if need be), with real merges and real evaluations, it puts side by side

    scaling    two processes of one thread each, and one: candidates a minute over the same generations; 1.8 times
    uneven     two processes, candidates of which one takes ten times as long: how long each had nothing to do
    overhead   a generation in one process, and the bare forward passes of its requests (the same batches through the
               same model in plain torch, nothing else): at most 1.3 times
    today      a generation, and what is done today: for each candidate three programs one after another
               (mergekit-yaml, lm_eval, and a program that loads whole models and correlates them); at least 15 times

A generation has six or seven candidates (strategy.k=4). Each part that is ours runs in a process of its own. Other work
on the machine spoils every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from src import config, zoo
from src.config import Settings

ROOT = Path(__file__).parent.parent
PARTS = ("scaling", "uneven", "overhead", "today")
LONG = 10
"""How many times as long the one uneven candidate takes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--generations", type=int, default=3, help="that the scaling is measured over")
    parser.add_argument("--candidates", type=int, default=3, help="that today's way is tried with")
    parser.add_argument("--limit", type=int, help="samples a task, for a quick try; all by default")
    parser.add_argument("--effort", type=float, default=1.0, help="of the embedded family's training")
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # one of OURS, in this process
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    if options.alone:
        with tempfile.TemporaryDirectory() as elsewhere:
            OURS[options.alone](options, Path(os.environ.get("BENCH_OUTPUTS", elsewhere)))
        return
    zoo.build(settings(options, Path("unused")).zoo.folder, effort=options.effort)
    for part in options.parts or PARTS:
        {"scaling": scaling, "uneven": uneven, "overhead": overhead, "today": today}[part](options)


def settings(options: argparse.Namespace, outputs: Path, *overrides: str) -> Settings:
    """Return the settings of the runs that are measured: nothing is remembered from one to the next."""
    family = ROOT / f"outputs/zoo/seed-0-effort-{options.effort}"
    with initialize_config_dir(str(ROOT / "conf")):
        composed = compose(
            "config",
            [
                *(
                    f"outputs={outputs}",
                    "strategy=kinship_topk",
                    "name=bench",
                    f"zoo.effort={options.effort}",
                    f"zoo.folder={family}",
                ),
                *("track=none", "cache=off", "workers.device=cpu", "evaluate.holdout=null"),
                *(f"evaluate.limit={options.limit or 'null'}", "stop.unchanged=false", "stop.kinship=null"),
                *("stop.gain=null", "strategy.k=4", f"stop.generations={options.generations}", *overrides),
            ],
        )
    return config.read(composed)


# --- the parts -------------------------------------------------------------------------------------------------------


def scaling(options: argparse.Namespace) -> None:
    """Measure two processes of one thread against one."""
    found = {count: together(count, "generations", options) for count in (1, 2)}
    print(f"\nscaling: generations 1 to {options.generations}, a thread a process\n")
    print("| processes | candidates | seconds | candidates a minute | idle |\n| ---: | ---: | ---: | ---: | --- |")
    for count, one in found.items():
        idle = ", ".join(f"{share / one['seconds']:.0%}" for share in one["idle"])
        rate = 60 * one["candidates"] / one["seconds"]
        print(f"| {count} | {one['candidates']} | {one['seconds']:.2f} | {rate:.1f} | {idle} |")
    times = found[1]["seconds"] / found[2]["seconds"]
    same = found[1]["scores"] == found[2]["scores"]
    print(f"\n{times:.2f} times the throughput (wanted: 1.8); {'the same' if same else 'DIFFERENT'} scores")


def uneven(options: argparse.Namespace) -> None:
    """Measure one candidate of ten times the length among others."""
    print(f"\nuneven: two processes, 8 candidates, one of them {LONG} times as long\n")
    print(
        "| handed out | seconds | idle, by process | a usual item | the long one |\n| --- | ---: | --- | ---: | ---: |"
    )
    for divisible in (False, True):
        one = together(2, "pieces" if divisible else "whole", options)
        idle = ", ".join(f"{seconds:.2f} s ({seconds / one['seconds']:.0%})" for seconds in one["idle"])
        how = "whole items" if not divisible else "items, and pieces to whoever finds none"
        print(f"| {how} | {one['seconds']:.2f} | {idle} | {one['usual']:.2f} s | {LONG * one['usual']:.2f} s |")


def overhead(options: argparse.Namespace) -> None:
    """Measure a generation against its bare forward passes."""
    one = together(1, "bare", options)
    print("\noverhead: one generation in one process of one thread, and the bare forward passes of its requests\n")
    print("| candidates | forward passes s | whole generation s | times | CPU seconds | | times |")
    print("|" + " ---: |" * 7)
    for candidates, (bare, bare_cpu), (whole, whole_cpu) in one["generations"]:
        wall = f"{bare:.2f} | {whole:.2f} | {whole / bare:.2f}"
        print(f"| {candidates} | {wall} | {bare_cpu:.2f} | {whole_cpu:.2f} | {whole_cpu / bare_cpu:.2f} |")
    sums = [[sum(gen[i][clock] for gen in one["generations"]) for i in (1, 2)] for clock in (0, 1)]
    wall, cpu = (whole / bare for bare, whole in sums)
    print(f"\n{wall:.2f} times the forward passes over all, {cpu:.2f} by CPU time (wanted: at most 1.3)")


def today(options: argparse.Namespace) -> None:
    """Measure three programs for each candidate, one after another, against a generation of ours, on all cores."""
    from benchmarks.today import candidate

    one = together(1, "generations", options, threads=None)
    programs = [candidate(settings(options, Path("unused")), number) for number in range(options.candidates)]
    print(f"\ntoday: seconds a candidate, mean of {options.candidates} and of {one['candidates']}\n")
    print("| mergekit-yaml | lm_eval | kinship | together | here | times |\n|" + " ---: |" * 6)
    parts = [sum(program[i] for program in programs) / len(programs) for i in range(3)]
    ours = one["seconds"] / one["candidates"]
    print(
        f"| {' | '.join(f'{part:.2f}' for part in parts)} | {sum(parts):.2f} | {ours:.2f} | {sum(parts) / ours:.1f} |"
    )
    print("\nwanted: at least 15 times")


def together(count: int, job: str, options: argparse.Namespace, threads: int | None = 1) -> dict[str, Any]:
    """Return what one of OURS found in so many processes."""
    own = ["--alone", job, f"--generations={options.generations}", f"--effort={options.effort}"]
    own += [f"--limit={options.limit}"] if options.limit else []
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    with tempfile.TemporaryDirectory(prefix="kinmerge-bench-") as outputs:
        environment = {**os.environ, "BENCH_OUTPUTS": outputs, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads)}
        command = [*launcher, "-m", "benchmarks.evolution", *own]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


Clocks = tuple[float, float]
"""Seconds of wall time, and of CPU time, which other work on the machine hardly touches."""


def clocks() -> Clocks:
    """Return both clocks' time now."""
    return time.perf_counter(), time.process_time()


def since(began: Clocks) -> Clocks:
    """Return the time that passed on both clocks."""
    now = clocks()
    return now[0] - began[0], now[1] - began[1]


# --- ours, in this process -------------------------------------------------------------------------------------------


def generations(options: argparse.Namespace, outputs: Path) -> None:
    """Time all generations after the founders', whose evaluation warms everything up; seconds."""
    watched(options, outputs, lambda evolution: (0.0, 0.0))


def bare(options: argparse.Namespace, outputs: Path) -> None:
    """Time every generation, and right after it the forward passes of its requests alone."""
    import torch

    def passes(evolution: Any) -> Clocks:
        models, requests = evolution._candidates.evaluator._models, evolution._candidates.evaluator.requests
        batches = [piece.batch.tokens for piece in models._planned[id(requests)]]
        began = clocks()
        with torch.inference_mode():
            for tokens in batches:
                models._model.model(input_ids=tokens, use_cache=False).logits  # noqa: B018
        return since(began)

    watched(options, outputs, passes)


def watched(options: argparse.Namespace, outputs: Path, after: Callable[[Any], Clocks]) -> None:
    """Run an evolution as src.run does, and print how long its generations took."""
    from src.evolution import Evolution
    from src.models import founders
    from src.runtime.workers import Workers

    asked = settings(options, outputs)
    found: list[tuple[int, Clocks, Clocks]] = []
    silence = StringIO()
    with Workers(**asked.workers.model_dump()) as workers, redirect_stdout(silence):
        with closing(Evolution(asked, workers, *founders.bring(asked))) as evolution:
            evolution.evaluate_founders()
            idle, began = workers.idle, clocks()
            while proposals := evolution.propose():
                evolution.run_generation(proposals)
                whole = since(began)
                offspring = [
                    m for m in evolution.state.population if m.generation == evolution.state.population.generation
                ]
                # as often as there were candidates, of which each asks the same
                passed = [after(evolution) for _ in offspring]
                found.append((len(offspring), (sum(one[0] for one in passed), sum(one[1] for one in passed)), whole))
                began = clocks()
        waited = workers.gather("gather", workers.idle - idle)
    if workers.main:
        total = {"candidates": sum(one[0] for one in found), "seconds": sum(one[2][0] for one in found)}
        scores = {model.name: model.average for model in evolution.state.population}
        print(json.dumps({**total, "generations": found, "idle": waited, "scores": scores}))


def items(options: argparse.Namespace, outputs: Path, divisible: bool) -> None:
    """Time eight evaluations, the third of which asks everything ten times over."""
    from src.evaluation.evaluator import Evaluator
    from src.runtime.workers import Workers

    asked = settings(options, outputs)
    folders = [Path(source) for source in asked.founders.models.values()]
    with Workers(**asked.workers.model_dump()) as workers:
        evaluator = Evaluator(asked.evaluate, seed=0)
        evaluator.evaluate(folders[0])
        began = time.perf_counter()
        evaluator.evaluate(folders[1])
        usual = time.perf_counter() - began

        def evaluated(number: int) -> float:
            times = LONG if number == 2 else 1

            def share(count: int, answer: Callable[[int], list[Any]]) -> Sequence[list[Any]]:
                return workers.share(times * count, lambda piece: answer(piece % count))[:count]

            return evaluator.evaluate(folders[number % len(folders)], share=share).average

        workers.in_main("once", lambda: None)
        idle, began = workers.idle, time.perf_counter()
        list(workers.map("map 1", evaluated, range(8), divisible=divisible))
        seconds = time.perf_counter() - began
        waited = workers.gather("gather", workers.idle - idle)
    if workers.main:
        print(json.dumps({"seconds": seconds, "idle": waited, "usual": usual}))


OURS: Mapping[str, Callable[[argparse.Namespace, Path], None]] = {
    "generations": generations,
    "bare": bare,
    "whole": lambda options, outputs: items(options, outputs, divisible=False),
    "pieces": lambda options, outputs: items(options, outputs, divisible=True),
}


if __name__ == "__main__":
    main()
