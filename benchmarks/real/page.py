"""docs/real.md: what ran, on what, and what came of it. Nothing here is computed, and nothing is rounded away."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.real.family import Family, training_seconds
from benchmarks.real.learned import Learned
from benchmarks.real.programs import Cost
from benchmarks.real.questions import DRAWS, SKILLS
from benchmarks.real.table import Row

LIBRARIES = ("torch", "transformers", "mergekit", "lm-eval", "accelerate")


@dataclass(frozen=True)
class ByHand:
    """One candidate by three programs, and the base by lm_eval."""

    weight: float
    costs: Mapping[str, Cost]
    scores: Mapping[str, float]
    base: Mapping[str, float]
    """Of the base; the scores of both are accuracies on all samples, ×100."""


ELSEWHERE = "## On other machines"
"""What is written under this heading stays when the page is written anew."""


def page(
    command: str,
    family: Family,
    rows: Sequence[Row],
    by_hand: ByHand | None,
    learned: Sequence[Learned],
    common: Sequence[str],
    before: str = "",
) -> str:
    """Return the page as Markdown.

    Args:
        command: that wrote it.
        family: what the runs were given.
        rows: in the order of the table; at least one.
        by_hand: None where it was not asked for.
        learned: what was learned beside `recipe_gradient`.
        common: the overrides that all runs share.
        before: the page as it was.
    """
    parts = [_head(command, family), _founders(rows[0], by_hand), _worth(rows), _cost(rows)]
    if learned:
        parts.append(f"{LEARNED}\n\n{_learned(learned)}")
    if by_hand is not None:
        parts.append(_by_hand(rows, by_hand))
    _, heading, others = before.partition(ELSEWHERE)
    parts += [_commands(rows, common), *([heading + others.rstrip()] if heading else [])]
    return "\n\n".join(parts) + "\n"


HEAD = """\
# A real family

Written by `{command}` on {today}: {machine}; Python {python}, {versions}.

The base is `{base}`. Every founder is a fine-tune of all its weights on two tasks, {steps} steps of {batch}
questions (seed {seed}), in bf16; training: {training}. The tasks are generated
(`benchmarks/real/questions.py`); no question that is asked was met in training. {samples} questions a task: half of
them steer, half are held out."""
WORTH = """\
## What merging gives

Averages over the tasks, in points. Where no merge beats it on what steers, the best founder wins. The gain over the
founder that is best on the holdout is paired: the same samples, the interval from a bootstrap over them. Skills kept is
the mean share of the specialists' scores that the winner keeps, on the holdout."""
COST = """\
## What it takes

Seconds by phase are the journal's; the whole is the program's, imports included. The first run evaluates the founders,
the others remember them (*remembered* counts both sides). Memory is the most that was resident, pages of mapped files
included. *Learning's worth* is what was learned, in evaluations: samples that went through the model, backwards counted
twice. Other programs ran on the same cores, so that seconds say little from one row to the next."""
LEARNED = """\
## Learned from the samples that steer

What `recipe_gradient` learns with, beside what an expert would try first: fine-tuning all weights by AdamW, and a LoRA
of rank 8 on all linear weights. All start from one WUDI merge, learn from the same samples in the same batches, look at
the same quarter kept back after every 10 steps, and end after 80 steps or 4 looks without a better one; the checkpoint
of the best look is scored on the holdout, in bf16. What is fine-tuned is kept in float32 with the products in bf16 (a
step is about half the distance between two bf16 numbers of a weight's size); a recipe's weights are float64 and every
sum is rounded once. The gain over the start is paired, on the same samples. Each learned alone in a process that did
nothing else: memory is the most that was resident, *own* is that without pages of the checkpoints' files, which the
system may take back at any time."""
BY_HAND = """\
## By hand

One candidate, all founders by task arithmetic {weight}: merged by mergekit-yaml, evaluated by lm_eval on all samples
(both sides of the holdout), its kinship to every founder by the published tool's arithmetic with every model loaded
once. It has {average:.1f} on all samples."""


def _head(command: str, family: Family) -> str:
    return HEAD.format(
        command=command,
        today=date.today().isoformat(),
        machine=machine(family.device),
        python=platform.python_version(),
        versions=", ".join(f"{library} {version(library)}" for library in LIBRARIES),
        base=family.base.name,
        steps=family.steps,
        batch=family.batch,
        seed=family.seed,
        training=", ".join(f"{name} {seconds:.0f} s" for name, seconds in training_seconds(family).items()),
        samples=family.samples,
    )


def machine(device: str) -> str:
    """Return what the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    parts = [f"{cores} core{'s' * (cores > 1)} of {_processor()}"]
    if device.startswith("cuda"):
        import torch

        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _founders(first: Row, by_hand: ByHand | None) -> str:
    names = list(first.founders["select"])
    columns = ["task", "owner", *(["base"] if by_hand else []), *names]
    lines = []
    for task in DRAWS:
        owner = next(name for name, tasks in SKILLS.items() if task in tasks)
        base = [f"{by_hand.base[task]:.1f}"] if by_hand else []
        scores = [" / ".join(f"{first.founders[side][name][task]:.1f}" for side in first.founders) for name in names]
        lines.append([task, owner, *base, *scores])
    asked = " The base was asked all, by lm_eval." if by_hand else ""
    return f"## The founders\n\nAccuracy on what steers / on what is held out.{asked}\n\n{_table(columns, lines)}"


def _worth(rows: Sequence[Row]) -> str:
    columns = ["run", "winner", "best merge, steering", "winner, steering", "winner, holdout"]
    columns += ["over the best founder (95 %)", "skills kept", "worst task"]
    lines = []
    for row in rows:
        gain = "the founder won" if row.gain is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*row.gain)
        merged = "" if row.merged is None else f"{row.merged:.1f}"
        holdout = f"{row.holdout:.1f} ± {1.96 * row.stderr:.1f}"
        lines.append([row.name, row.winner, merged, f"{row.select:.1f}", holdout, gain])
        lines[-1] += [f"{row.kept:.0%}", f"{row.worst:.1f}"]
    return f"{WORTH}\n\n{_table(columns, lines)}"


def _cost(rows: Sequence[Row]) -> str:
    gpu = any(row.cost.gpu is not None for row in rows)
    columns = ["run", "evaluations", "remembered", "learning's worth"]
    columns += ["merging s", "measuring s", "evaluating s", "learning s", "holdout s", "whole s"]
    columns += ["memory GiB", *(["GPU GiB"] if gpu else [])]
    lines = []
    for row in rows:
        phases = [f"{row.seconds[phase]:.1f}" for phase in ("merged", "measured", "evaluated", "learned", "held_out")]
        memory = [f"{row.cost.memory / 2**30:.2f}"] + ([_gib(row.cost.gpu)] if gpu else [])
        counts = [str(row.evaluations), str(row.known), f"{row.learning:.1f}" if row.learning else ""]
        lines.append([row.name, *counts, *phases, f"{row.cost.seconds:.1f}", *memory])
    return f"{COST}\n\n{_table(columns, lines)}"


def _learned(learned: Sequence[Learned]) -> str:
    gpu = any(one.cost.gpu is not None for one in learned)
    columns = ["learned", "steps", "at the best", "evaluations' worth", "loss kept back", "holdout"]
    columns += ["over the start (95 %)", "skills kept", "worst task", "learning s", "s a step"]
    columns += ["memory GiB", "own GiB", *(["GPU GiB"] if gpu else [])]
    lines = []
    for one in learned:
        loss = "{:.3f} → {:.3f}".format(*one.kept_back)
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*one.gain)
        holdout = f"{one.holdout:.1f} ± {1.96 * one.stderr:.1f}"
        lines.append([one.name, str(one.steps), str(one.best), f"{one.worth:.1f}", loss, holdout, gain])
        lines[-1] += [f"{one.kept:.0%}", f"{one.worst:.1f}", f"{one.seconds:.0f}", f"{one.seconds / one.steps:.1f}"]
        lines[-1] += [_gib(one.cost.memory), _gib(one.cost.own), *([_gib(one.cost.gpu)] if gpu else [])]
    return _table(columns, lines)


def _by_hand(rows: Sequence[Row], by_hand: ByHand) -> str:
    gpu = any(cost.gpu is not None for cost in by_hand.costs.values())
    columns = ["program", "s", "memory GiB", *(["GPU GiB"] if gpu else [])]
    lines = [
        [name, f"{cost.seconds:.1f}", f"{cost.memory / 2**30:.2f}", *([_gib(cost.gpu)] if gpu else [])]
        for name, cost in by_hand.costs.items()
    ]
    whole = sum(cost.seconds for cost in by_hand.costs.values())
    lines.append(["together", f"{whole:.1f}", "", *([""] if gpu else [])])
    average = sum(by_hand.scores.values()) / len(by_hand.scores)
    words = BY_HAND.format(weight=by_hand.weight, average=average)
    return f"{words}\n\n{_table(columns, lines)}\n\n{_per_candidate(rows, whole)}"


def _per_candidate(rows: Sequence[Row], whole: float) -> str:
    """Say what a candidate takes within the longest search, beside the programs."""
    row = max(rows, key=lambda one: one.evaluations)
    made = row.evaluations - len(row.founders["select"])
    if made < 2:
        return ""
    each = row.cost.seconds / made
    return (
        f"`{row.name}` took {each:.1f} s for each of its {made} candidates, imports and the holdout included, asking\n"
        f"half of the samples: {whole / each:.1f} times as fast."
    )


def _commands(rows: Sequence[Row], common: Sequence[str]) -> str:
    """Return what a user types, for every run: its own overrides, and those that all share."""
    own = "\n".join(f"    python -m src.run {' '.join(map(_quoted, row.own))} …" for row in rows)
    shared = "\n".join(f"    {_quoted(word)}" for word in common)
    return f"## The commands\n\n{own}\n\nwhere … is\n\n{shared}"


def _quoted(word: str) -> str:
    return f"'{word}'" if set(word) & set("{[ ,") else word


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    texts = {"task", "owner", "run", "winner", "program", "learned"}
    texts |= {"over the best founder (95 %)", "over the start (95 %)"}
    marks = ["---" if column in texts else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, marks, *lines))
