"""Evaluation on the GPU beside the bare forward passes and lm_eval's command line; and where memory is short."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.gpu import family
from benchmarks.gpu.place import GIB, Place, Row
from benchmarks.gpu.runs import configured, do
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.runtime.files import size_words

POINTS = 1.0
"""By which two scores of the same weights may differ: batches of another size round otherwise in bf16."""


def run(place: Place) -> Iterator[Row]:
    """Evaluate models of 1 B parameters, by every attention there is, and by lm_eval."""
    made, tasks = family.at(place.folder / "one"), place.folder / "tasks"
    first, second, *_ = made.folders[1:]
    score, rate = 0.0, 0.0
    for attention in ("sdpa", "eager", "flash_attention_2"):
        if attention.startswith("flash") and importlib.util.find_spec("flash_attn") is None:
            yield Row(f"evaluation, {attention}", "not installed here")
            continue
        evaluator = evaluator_of(place, tasks, f"evaluate.model_args.attn_implementation={attention}")
        began = time.perf_counter()
        evaluator.evaluate(first)
        loaded = time.perf_counter() - began
        began = time.perf_counter()
        evaluator.prepare(second, None)
        _wait(place)
        swapped = time.perf_counter() - began
        began = time.perf_counter()
        found = evaluator.evaluate(second)
        whole = time.perf_counter() - began
        bare, passed = _passes(evaluator, place)
        score = score or found.average
        rate = rate or found.count / (whole - swapped)
        yield Row(
            f"evaluation, {attention}, batch_size auto: {found.count} samples of {place.sizes.words} words",
            f"{found.count / (whole - swapped):,.0f} samples/s",
            f"the same batches, forward passes alone: {found.count / passed:,.0f} samples/s ({bare} batches)",
            not place.gpu or whole - swapped <= 1.3 * passed,
        )
        if attention == "sdpa":
            yield Row(
                "a model loaded and evaluated for the first time; weights swapped", f"{loaded:.2f} s; {swapped:.2f} s"
            )
            yield from _memory(place)
        del evaluator
    yield from _by_lm_eval(place, second, tasks, score, rate)


def evaluator_of(place: Place, tasks: Path, *more: str) -> Evaluator:
    """Return the evaluator of a run over the family of 1 B parameters."""
    made = family.at(place.folder / "one")
    settings = configured(place, made, tasks, "evaluation", *more)
    return Evaluator(settings.evaluate, seed=0, devices=(place.device,))


def _passes(evaluator: Evaluator, place: Place) -> tuple[int, float]:
    """Return the number of batches, and the seconds of their forward passes through the loaded model alone."""
    models = evaluator._models
    assert models._model is not None
    batches = [piece.batch.tokens for piece in models._planned[id(evaluator.requests)] if piece.batch is not None]
    _wait(place)
    began = time.perf_counter()
    with torch.inference_mode():
        for tokens in batches:
            models._model.model(input_ids=tokens.to(place.device), use_cache=False).logits  # noqa: B018
    _wait(place)
    return len(batches), time.perf_counter() - began


def _memory(place: Place) -> Iterator[Row]:
    if place.gpu:
        most = torch.cuda.max_memory_allocated() / GIB
        yield Row("evaluation: memory of the GPU", f"{most:.1f} GiB at most, of which the largest batch's logits")


def _by_lm_eval(place: Place, model: Path, tasks: Path, score: float, rate: float) -> Iterator[Row]:
    """Evaluate the same model by lm_eval's command line."""
    out = place.folder / "lm_eval"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", family.TASK]
    command += ["--model_args", f"pretrained={model},dtype=bfloat16", "--include_path", str(tasks)]
    command += ["--batch_size", "64", "--device", place.device, "--output_path", str(out)]
    began = time.perf_counter()
    do(command)
    wall = time.perf_counter() - began
    result = json.loads(next(out.rglob("results*.json")).read_text())
    inner = float(result["total_evaluation_time_seconds"])
    theirs = 100 * result["results"][family.TASK]["acc,none"]
    count = result["n-samples"][family.TASK]["effective"]
    yield Row(
        "the same model by lm_eval's command line, batch_size 64",
        f"{wall:.1f} s, {inner:.1f} s of them by its own count",
        f"here: {rate:,.0f} samples/s, there {count / inner:,.0f} by that count",
    )
    yield Row("its score", f"{theirs:.2f}", f"{score:.2f} here", abs(theirs - score) <= POINTS)


def short_of_memory(place: Place) -> Iterator[Row]:
    """Evaluate with a batch that does not fit, and with one that does."""
    tasks = place.folder / "tasks"
    first = family.at(place.folder / "one").folders[1]
    wanted = evaluator_of(place, tasks).evaluate(first)
    evaluator = evaluator_of(place, tasks, f"evaluate.batch_size={place.sizes.batch}")
    with limited(place) as limit:
        began = time.perf_counter()
        found = evaluator.evaluate(first)
        seconds = time.perf_counter() - began
    models = evaluator._models
    assert models._model is not None
    widest = max(piece.batch.tokens.shape[1] for piece in models._planned[id(evaluator.requests)] if piece.batch)
    rows = models._model._max_tokens // widest
    yield Row(
        f"batch_size={place.sizes.batch} within {limit}",
        f"halved until {rows} rows fitted; {seconds:.1f} s, {found.count} samples",
        held=0 < rows < place.sizes.batch,
    )
    yield Row(
        "the score",
        f"{found.average:.2f}",
        f"{wanted.average:.2f} in batches of 64",
        abs(found.average - wanted.average) <= POINTS,
    )


ROOM = 12 * GIB


@contextmanager
def limited(place: Place) -> Iterator[str]:
    """Leave room for some hundred rows: by torch's limit on a GPU; on processors, by refusing more than 16."""
    if place.gpu:
        torch.cuda.empty_cache()
        room = torch.cuda.memory_reserved(place.device) + ROOM
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info(place.device)[1], place.device)
        try:
            yield f"{size_words(ROOM)} beside another model"
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place.device)
        return
    real = ReusableModel.logits

    def refusing(model: ReusableModel, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 16:
            raise torch.OutOfMemoryError("as on a GPU")
        return real(model, tokens)

    ReusableModel.logits = refusing  # type: ignore[method-assign, assignment]
    try:
        yield "16 rows, as if by the memory"
    finally:
        ReusableModel.logits = real  # type: ignore[method-assign]


def by_vllm(place: Place) -> Iterator[Row]:
    """Evaluate a model by vLLM where it is installed."""
    if not place.gpu:
        yield Row("vLLM", "needs a GPU; not tried")
    elif importlib.util.find_spec("vllm") is None:
        yield Row("vLLM", "not installed here; not tried")
    else:
        began = time.perf_counter()
        found = evaluator_of(place, place.folder / "tasks", "evaluate.backend=vllm").evaluate(
            family.at(place.folder / "one").folders[1]
        )
        yield Row(
            "vLLM: a model loaded and evaluated", f"{time.perf_counter() - began:.1f} s, {found.average:.2f} points"
        )


def spread(place: Place) -> Iterator[Row]:
    """Evaluate a model that is spread over two GPUs."""
    if place.gpus < 2:
        yield Row("gpus_per_model=2", f"needs two GPUs; here {'is one' if place.gpus else 'is none'}; not tried")
        return
    first, tasks = family.at(place.folder / "one").folders[1], place.folder / "tasks"
    alone = evaluator_of(place, tasks).evaluate(first)
    settings = configured(place, family.at(place.folder / "one"), tasks, "spread")
    both = Evaluator(settings.evaluate, seed=0, devices=("cuda:0", "cuda:1")).evaluate(first)
    gap = abs(both.average - alone.average)
    yield Row("gpus_per_model=2: the score", f"{both.average:.2f}", f"{alone.average:.2f} on one", gap <= POINTS)


def _wait(place: Place) -> None:
    if place.gpu:
        torch.cuda.synchronize()
