"""What a search finds with so many evaluations: python -m benchmarks.search [NAME …] [--seeds 0-9] [--budgets 8 12 25].

Every configuration runs through the front door over families of the embedded kind, each trained first if need be. A run
is stopped at each budget, where its winner and the founders are scored on the holdout, and goes on to the next. What is
finished is not run again, so that the command can be interrupted. The table has, by budget, the mean holdout score and
the share of the specialists' skills kept; the paired differences to `--against`, with 95 % intervals over families; and
how well the searches that predict knew what they would find.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import multiprocessing
import os
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    "one_shot-task_arithmetic": ("strategy=one_shot", "merge=task_arithmetic", "merge.each.weight=0.4"),
    "one_shot-tsv_m": ("strategy=one_shot", "merge=tsv_m"),
    "one_shot-wudi": ("strategy=one_shot", "merge=wudi"),
    "kinship_topk-slerp": ("strategy=kinship_topk", "merge=slerp"),
    "kinship_topk-wudi": ("strategy=kinship_topk", "merge=wudi"),
    "greedy_topk-slerp": ("strategy=greedy_topk", "merge=slerp"),
    "random_pairs-slerp": ("strategy=random_pairs", "merge=slerp"),
    "recipe_search": ("strategy=recipe_search",),
    "recipe_search-derivatives": ("strategy=recipe_search", "strategy.derivatives=true"),
    "recipe_search-quarter": ("strategy=recipe_search", "evaluate.share=0.25"),
    "recipe_search-founders": ("strategy=recipe_search", "strategy.directions=null"),
    "recipe_search-founders-derivatives": (
        "strategy=recipe_search",
        "strategy.directions=null",
        "strategy.derivatives=true",
    ),
    "optuna-tpe": ("strategy=optuna_search", "strategy.sampler=tpe", "strategy.batch=1"),
    "optuna-cmaes": ("strategy=optuna_search", "strategy.sampler=cmaes"),
    "optuna-gp": ("strategy=optuna_search", "strategy.sampler=gp", "strategy.batch=1"),
    "optuna-random": ("strategy=optuna_search", "strategy.sampler=random", "strategy.batch=1"),
    "optuna-nsgaii": ("strategy=optuna_search", "strategy.sampler=nsgaii"),
    "m2n2": ("strategy=m2n2",),
}
"""Everything that is compared, by what the command line takes."""
OPEN = ("stop.generations=null", "stop.unchanged=false", "stop.kinship=null", "stop.gain=null", "track=none")


@dataclass(frozen=True)
class Found:
    """What a run had found when a budget was spent."""

    evaluations: int
    """Gradients included, in evaluations' worth of samples."""
    holdout: float
    """The winner's average there, in points."""
    kept: float
    """Of the specialists' scores, the mean over tasks, in percent."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONFIGURATIONS)}; all by default")
    parser.add_argument("--seeds", default="0-9", help="families, as FIRST-LAST or a list with commas")
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=[8, 12, 16, 25], help="evaluations, founders included"
    )
    parser.add_argument("--against", default="one_shot-wudi", help="what the others are compared with")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/search"))
    _add_zoo(parser)
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - {*CONFIGURATIONS}):
        parser.error(f"no configuration {unknown[0]!r}; there are {', '.join(CONFIGURATIONS)}")
    names, seeds = options.names or list(CONFIGURATIONS), _numbers(options.seeds)
    if not options.only_print:
        jobs = [(name, seed, options) for seed in seeds for name in names]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            for number, line in enumerate(pool.map(_run, jobs), 1):
                print(f"{number}/{len(jobs)} {line}", file=sys.stderr, flush=True)
    found = {name: {seed: _found(options.outputs / f"{name}-{seed}") for seed in seeds} for name in names}
    print(_table(found, options.budgets, options.against))
    print(_calibration(options.outputs, names, seeds))


def _add_zoo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zoo", type=Path, help="folder of families named seed-N; by default those of a run, or anew")


def _family(options: argparse.Namespace, seed: int) -> str:
    """Return the override of where a family lies: by default where `python -m src.run seed=N` puts it."""
    folder = options.zoo / f"seed-{seed}" if options.zoo else Path(f"outputs/zoo/seed-{seed}-effort-1.0")
    return f"zoo.folder={folder}"


def _numbers(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if last else [int(one) for one in text.split(",")]


def _run(job: tuple[str, int, argparse.Namespace]) -> str:
    """Take one configuration over one family through all budgets."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    name, seed, options = job
    run = f"{name}-{seed}"
    before = len(_found(options.outputs / run))
    for budget in options.budgets:
        known = _found(options.outputs / run)
        if known and (known[-1].evaluations >= budget or _ended_early(options.outputs / run, options.budgets)):
            continue
        status = _front_door(
            *CONFIGURATIONS[name],
            *OPEN,
            f"seed={seed}",
            _family(options, seed),
            f"stop.evaluations={budget}",
            f"outputs={options.outputs}",
            f"name={run}",
            "workers.threads=1",
            "resume=force",
            log=options.outputs / f"{run}.log",
        )
        if status:
            return f"{run}: exit status {status}, see {options.outputs / run}.log"
    found = _found(options.outputs / run)
    scores = ", ".join(f"{one.evaluations}: {one.holdout:.1f}" for one in found)
    return f"{run}: {scores}{'' if len(found) > before else ' (known)'}"


def _ended_early(folder: Path, budgets: Sequence[int]) -> bool:
    """Return whether a run came to an end of its own, which a larger budget would not move."""
    from src.journal import run_state

    state = run_state(folder)
    return state is not None and state.stopped is not None and "budget" not in state.stopped


def _front_door(*overrides: str, log: Path) -> int:
    """`python -m src.run` within this process, what it prints in a file."""
    from hydra.core.global_hydra import GlobalHydra

    from src.run import main as run

    log.parent.mkdir(parents=True, exist_ok=True)
    argv, sys.argv = sys.argv, ["src.run", *overrides]
    status, printed = 0, io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            run()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
        with log.open("a") as file:
            file.write(printed.getvalue())
    return status


def _found(folder: Path) -> list[Found]:
    """Return what a run's journal says of the moments at which it was stopped."""
    from src.journal import State, events_of
    from src.population import normalised_average
    from src.tracking.summary import skills_kept

    state, found = State(), []
    for event in events_of(folder) if (folder / "journal.jsonl").exists() else ():
        state.apply(event)
        if event["event"] == "stopped":
            winner = state.population.best(1)[0].name
            kept = normalised_average(skills_kept(state)[1])
            found.append(Found(state.spent.evaluations, state.holdout[winner].average, kept))
    return found


def _at(found: Sequence[Found], budget: int) -> Found | None:
    """Return what was known once so many evaluations were spent: a run that ended before them knows no more later."""
    return next((one for one in reversed(found) if one.evaluations <= budget), found[0] if found else None)


def _table(found: Mapping[str, Mapping[int, Sequence[Found]]], budgets: Sequence[int], against: str) -> str:
    from src.statistics import compare_configurations

    cells = " | ".join(f"{budget} evaluations" for budget in budgets)
    rows = [f"| configuration | families | {cells} |", f"| --- | ---: |{' --- |' * len(budgets)}"]
    for name, runs in found.items():
        texts = []
        for budget in budgets:
            here = {seed: one for seed, known in runs.items() if (one := _at(known, budget)) is not None}
            if not here:
                texts.append("")
                continue
            text = f"{fmean(o.holdout for o in here.values()):.1f}, kept {fmean(o.kept for o in here.values()):.0f} %"
            theirs = {s: one for s, known in found.get(against, {}).items() if (one := _at(known, budget)) is not None}
            both = sorted(here.keys() & theirs.keys())
            if name != against and len(both) > 1:
                mine: dict[Hashable, float] = {seed: here[seed].holdout for seed in both}
                other: dict[Hashable, float] = {seed: theirs[seed].holdout for seed in both}
                paired = compare_configurations(mine, other)
                text += f"; {paired.difference:+.1f} ({paired.low:+.1f} to {paired.high:+.1f})"
            texts.append(text)
        count = sum(bool(known) for known in runs.values())
        rows.append(f"| {name} | {count} | {' | '.join(texts)} |")
    return f"\nholdout, in points, share of skills kept; difference to {against}, 95 %\n\n" + "\n".join(rows)


def _predictions(outputs: Path, name: str, seeds: Sequence[int]) -> Iterator[tuple[float, float, float, float]]:
    """Yield what was predicted of every proposal, its interval, and what was found, in points."""
    from src.journal import run_state

    for seed in seeds:
        if (state := run_state(outputs / f"{name}-{seed}")) is not None:
            population = state.population
            for model in population.eligible():
                if (promised := model.predicted) is not None:
                    yield promised.value, promised.low, promised.high, population.found(model)


def _calibration(outputs: Path, names: Sequence[str], seeds: Sequence[int]) -> str:
    rows = []
    for name in names:
        if known := list(_predictions(outputs, name, seeds)):
            error = math.sqrt(fmean((value - score) ** 2 for value, _, _, score in known))
            bias = fmean(value - score for value, _, _, score in known)
            inside = fmean(low <= score <= high for _, low, high, score in known)
            rows.append(f"| {name} | {len(known)} | {error:.2f} | {bias:+.2f} | {inside:.0%} |")
    if not rows:
        return ""
    head = [
        "| search | proposals | root mean square error | mean error | within 95 % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    return "\npredicted against found score of every proposal, in points\n\n" + "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
