"""Gradient steps of a recipe: directions read every time, or kept on the GPU; and their memory beside the plan's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu import family
from benchmarks.gpu.evaluation import evaluator_of
from benchmarks.gpu.place import GIB, Place, Row
from src.learning.forecast import memory
from src.learning.gradient import Room, Stored, WeightedSum
from src.learning.passes import Passes
from src.learning.samples import Sample, by_question, samples
from src.models.checkpoint import open_checkpoint

SAMPLES = 16
"""Of a step."""
STEPS = 3


def run(place: Place) -> Iterator[Row]:
    """Take steps over the family of 1 B parameters."""
    made = family.at(place.folder / "one")
    evaluator = evaluator_of(place, place.folder / "tasks")
    batch = samples(evaluator, "choice")[0][:SAMPLES]
    model = evaluator.model(made.folders[1])
    blocks = {name: number for number, (name, _) in enumerate(model.model.named_parameters())}
    found, seconds = {}, {}
    for way, room in (("read every time", Room()), ("kept on the GPU", Room(place.device))):
        directions = [Stored(folder, room) for folder in made.folders[1:]]
        total = WeightedSum(Stored(made.folders[0], room), directions, blocks)
        passes = Passes(model, total, by_question(batch), room=room)
        seconds[way], found[way] = _steps(passes, batch, len(directions), len(blocks), place)
    (first, one), (second, other) = found.items()
    yield Row(
        f"a gradient step of {len(batch)} samples, {len(directions)} directions {first}",
        f"{seconds[first]:.2f} s",
        f"{second}: {seconds[second]:.2f} s",
        not place.gpu or seconds[second] < seconds[first],
    )
    same = bool(np.array_equal(one, other))
    yield Row("their derivatives", "the same" if same else f"{np.abs(one - other).max():.1e} apart", held=same)
    if place.gpu:
        room.clear()
        yield _memory(place, Passes(model, total, by_question(batch)), batch)


def _steps(passes: Passes, batch: list[Sample], count: int, blocks: int, place: Place) -> tuple[float, np.ndarray]:
    """Return the seconds of a step, after one that does not count, and the derivatives of the last."""
    draw = np.random.default_rng(0)
    part = [[(one, 1 / len(batch)) for one in batch]]
    for step in range(1 + STEPS):
        if step == 1:
            began = time.perf_counter()
        [(_, found)] = passes.gradients("loss", draw.uniform(0.2, 0.6, (count, blocks)), part)
    if place.gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS, found


def _memory(place: Place, passes: Passes, batch: list[Sample]) -> Row:
    """Return the memory of a step beside what the plan expects of one."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _steps(passes, batch, len(passes.total.directions), len(passes.total.blocks), place)
    tokens, _ = passes.model.batch(passes.model.encode([asked for one in batch for asked in one.requests]))
    rows, width = tokens.tokens.shape
    founder = open_checkpoint(family.at(place.folder / "one").folders[1])
    expected = memory(
        founder.config,
        {name: spec.shape for name, spec in founder.tensors.items()},
        2,
        rows=rows,
        width=width,
        columns=len(torch.unique(tokens.columns)),
        checkpointing=False,
    )
    assert expected is not None
    most = torch.cuda.max_memory_allocated()
    return Row(
        f"its memory, {rows} rows of {width} tokens",
        f"{most / GIB:.1f} GiB at most",
        f"the plan expects {expected.peak / GIB:.1f}",
        most <= expected.peak,
    )
