"""Merges and singular value decompositions: on the GPU, on the processors, and whether they are the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu import family
from benchmarks.gpu.place import GIB, Place, Row, bytes_of, processors
from benchmarks.merging import OWN, most_allocated, recipe_of
from src.models import merging
from src.models.checkpoint import tensors_of
from src.models.methods import cost

FOUNDERS = 3
METHODS = ("slerp", "task_arithmetic", "wudi")
STEP = 2.0**-7
"""A step of bf16, relative: what rounding may make of a difference in the last bit."""


def run(place: Place) -> Iterator[Row]:
    """Merge two layers of 1 B's width by every method, half of a layer by TSV-M, and decompose one matrix."""
    for device in dict.fromkeys((place.device, "cpu")):
        speed = cost.rates(device, processors())
        yield Row(
            f"speed that the plan reckons with: {device}",
            f"{speed.multiply / 1e12:.2f} TFLOP/s, {speed.decompose / 1e9:.2f} G/s in an SVD, "
            f"{speed.move / 1e9:.1f} G/s widened, {speed.to / 1e9:.1f} GB/s there and {speed.back / 1e9:.1f} back",
        )
    if place.gpu:
        wide = torch.randn(4096, 4096, dtype=torch.float64, device=place.device)
        yield Row(
            "a product of 4096 × 4096 in float64", f"{2 * 4096**3 / _timed(lambda: wide @ wide) / 1e12:.1f} TFLOP/s"
        )
        del wide
    yield from _merges(place, "layers", METHODS)
    yield from _decompositions(place)
    yield from _merges(place, "half", ("tsv_m",))


def _merges(place: Place, which: str, methods: tuple[str, ...]) -> Iterator[Row]:
    shapes = getattr(place.sizes, which)
    made = family.generate(place.folder / which, shapes, FOUNDERS, place.device)
    for method in methods:
        if place.gpu:
            _merge(place, made, method, place.device)  # a GPU's libraries load what they need at their first use
        there, tensors, peak = _merge(place, made, method, place.device)
        yield Row(f"{method}, {bytes_of(shapes) / 1e9:.2f} GB a model: {place.device}", f"{there:.2f} s, {peak}")
        here, wanted, peak = _merge(place, made, method, "cpu")
        expected = ""
        if method in OWN:
            sizes = dict(shapes.tensors)
            expected = ", ".join(
                f"{device} {cost.cost(method, sizes, FOUNDERS, 2, cost.rates(device, processors())).seconds:.2f} s"
                for device in dict.fromkeys((place.device, "cpu"))
            )
        yield Row(
            f"{method}: {processors()} processors", f"{here:.2f} s, {peak}", f"expected: {expected}" * bool(expected)
        )
        base = tensors_of(made.folders[0])
        share, worst = difference(tensors, wanted, base)
        yield Row(
            f"{method}: values that differ, the largest difference",
            f"{share:.1e} of them, {worst:.2f} of a bf16 step",
            "at most 1.00 of a step",
            worst <= 1,
        )
    shutil.rmtree(made.folders[0].parent)


def _merge(place: Place, made: family.Family, method: str, device: str) -> tuple[float, dict[str, torch.Tensor], str]:
    """Return seconds, tensors and the most memory of a merge."""
    recipe = recipe_of(method, FOUNDERS, processors(), stored="BF16")
    out = place.folder / "merged"
    out.mkdir()
    gpu = device != "cpu"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    paths = {folder.name: folder for folder in made.folders}
    with most_allocated() as most:
        began = time.perf_counter()
        tensors = merging.merge_in_memory(recipe, {name: paths[name] for name in recipe.models}, out, device=device)
        seconds = time.perf_counter() - began
    assert tensors is not None
    shutil.rmtree(out)
    peak = f"{(max(most) - most[0]) / GIB:.2f} GiB"
    return seconds, tensors, peak + f" and {torch.cuda.max_memory_allocated() / GIB:.2f} on the GPU" * gpu


def difference(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], base: dict[str, torch.Tensor]
) -> tuple[float, float]:
    """Return the share of values that differ, and the largest difference in steps of bf16."""
    count = changed = 0
    worst = 0.0
    for name, right in wanted.items():
        one, other = found[name].cpu().float(), right.float()
        gap = (one - other).abs()
        size = torch.maximum(other.abs(), base[name].float().abs())
        count, changed = count + one.numel(), changed + int((gap > 0).sum())
        worst = max(worst, float((gap / (STEP * size).clamp(min=1e-12)).max()))
    return changed / count, worst


def _decompositions(place: Place) -> Iterator[Row]:
    side = place.sizes.side
    own = torch.randn(side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = own.to(place.device)
    ways: dict[str, Callable[[], object]] = {
        "eigenvectors of A Aᵀ": lambda: torch.linalg.eigh(there @ there.T),
        "SVD": lambda: torch.linalg.svd(there, full_matrices=False),
        "polar factor by its Gram matrix": lambda: torch.linalg.cholesky(there @ there.T),
    }
    if place.gpu:
        ways |= {
            f"SVD by {driver}": lambda driver=driver: torch.linalg.svd(there, full_matrices=False, driver=driver)  # type: ignore[misc]
            for driver in ("gesvd", "gesvda", "gesvdj")
        }
    for way, work in ways.items():
        off = ""
        if way.startswith("SVD"):
            off = f", off by {_off(there, work()):.0e} in all"
        yield Row(f"{way} of {side} × {side} in float64: {place.device}", f"{_once(work, place):.2f} s{off}")
    seconds = _once(lambda: torch.linalg.svd(own, full_matrices=False), place)
    yield Row(f"SVD of {side} × {side} in float64: {processors()} processors", f"{seconds:.2f} s")


def _off(matrix: torch.Tensor, factors: Any) -> float:
    """Return how far U S Vᵀ is from the matrix, in lengths of the matrix."""
    u, s, vt = factors
    return float((u * s @ vt - matrix).norm() / matrix.norm())


def _timed(work: Callable[[], object]) -> float:
    times = []
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _once(work: Callable[[], object], place: Place) -> float:
    began = time.perf_counter()
    work()
    if place.gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began
