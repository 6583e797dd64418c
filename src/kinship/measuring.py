"""The pass: from checkpoints on disk to Gram matrices."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from src.kinship import factored, native
from src.kinship.grams import Grams, Products, Tensor
from src.kinship.handles import Handles
from src.kinship.kinds import kind_of, layer_of
from src.models.checkpoint import Checkpoint, Compared, compared
from src.models.header import ITEM_BYTES, TensorSpec
from src.runtime.errors import UserError

_STRETCH = 1 << 21  # elements handed to a thread at a time
_NEAR = 0.02  # squared distance, of the squares of both lengths, below which a pair is measured again in float64
_PORTION = 1 << 28  # bytes of tensors that are shared out together; what is less is not worth sharing
Progress = Callable[[int, int], None]
Share = Callable[[str, Callable[[range], list[np.ndarray]], Sequence[range]], Iterable[list[np.ndarray]]]
"""Of a pass by its name, a job and the items: the job's result for each, in order."""
Kernel = Callable[[Sequence[TensorSpec], Sequence[int], int, int], Products]
"""Of specs and open files of every row, the base first, a start and a count: the products of these elements.

Raises EOFError(row) where a file ends early."""


def measure(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    *,
    known: Grams | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    share: Share | None = None,
    with_base: bool = True,
) -> Grams:
    """Read every weight of the base and of the models once, and return their Gram matrices.

    Of an adapter nothing but the factors is read; what it changes is as it was trained, before any rounding.

    The totals are float64, and the same bit for bit whatever the number of threads. Long 16-bit tensors are summed in
    float32 over a few hundred elements at a time; where that leaves two models too close to tell apart (kinship above
    about 0.98), the pass is made again in float64. Memory is a few buffers, whatever the size and number of the models.

    Args:
        base: the common ancestor.
        models: at least one model, by the names that the result is to know them by.
        known: what was measured before against the same base. Its models come first in the result; pairs of theirs
            are taken over, and only models that are new are computed, against all of `models`. Those that are
            not in `models` stay, with NaN where they meet a new one. Where the compared tensors are no longer the
            same (a new model has a smaller vocabulary), everything is measured again and these become all NaN.
        device: "cpu", or a torch device like "cuda".
        progress: called with (bytes read, bytes to read), now and then and at the end.
        share: like `map`; has other processes measure some of the tensors. The result is the same bit for bit.
        with_base: whether the base's own row is wanted. Without it (NaN) a family of adapters alone is measured without
            reading its base; for others it makes no difference.

    Raises:
        UserError: tensors that do not match (see `compared`), a model without any change, weights that are not
            finite, a file that ends early, a known model whose weights have changed, a device that is not there.
    """
    if not models:
        raise UserError("no model to measure; give at least one besides the base")
    tensors = compared(base, models)
    if not tensors:
        raise UserError(f"{base.source}: no float tensor to compare; expected the weights of a language model")
    described = tuple(Tensor(t.name, kind_of(t.name), layer_of(t.name), t.count) for t in tensors)
    earlier = known.names if known is not None else ()
    if known is not None and known.tensors != described:
        known = None
    new = [name for name in models if known is None or name not in earlier]
    if known is not None and not new:
        return known
    order = [*(name for name in earlier if name in models), *(name for name in models if name not in earlier)]
    names = (*earlier, *(name for name in order if name not in earlier))
    first = 0 if known is None else 1 + len(order) - len(new)
    reading = _Pass([base, *(models[name] for name in order)], tensors, first, device)
    without = not with_base and known is None and all(model.adapter for model in models.values())
    products = reading.factors_alone() if without else reading.run(progress, share)
    found = Grams(tuple(order), described, *products)
    _check_finite(found, with_base=not without)
    _check_changed(found, first)
    if known is not None:
        _check_unchanged(known.of(order[: first - 1]), found)
    measured = _joined(names, known, found, first)
    if not without and _near_copies(measured.of(order), new) and reading.is_coarse():
        products = replace(reading, first=0, fine=True).run(progress, share)
        return _joined(names, known, Grams(found.names, described, *products), 0)
    return measured


def _joined(names: tuple[str, ...], known: Grams | None, found: Grams, first: int) -> Grams:
    """Join what was known and the rows found from `first` on, as the grams of these models."""
    count, rows = len(found.tensors), 1 + len(names)
    gram, sums = np.full((count, rows, rows), np.nan), np.full((count, rows), np.nan)
    if known is not None:
        before = 1 + len(known.names)
        gram[:, :before, :before], sums[:, :before] = known.gram, known.sums
    place = np.array([0, *(1 + names.index(name) for name in found.names)])
    new = place[first:]
    gram[:, new[:, None], place] = found.gram[:, first:]
    gram[:, place[:, None], new] = found.gram[:, :, first:]
    sums[:, new] = found.sums[:, first:]
    return Grams(names, found.tensors, gram, sums)


def _near_copies(grams: Grams, new: Sequence[str]) -> bool:
    """Return whether a new model is too close to another one for the float32 sums of a coarse pass.

    The square of a distance is what is left of squares a hundred times its size, and a coarse square is good to 1e-8.
    """
    total = grams.total().gram[1:, 1:]
    squares = np.diagonal(total)
    both = squares[:, None] + squares[None, :]
    near = both - 2 * total < _NEAR * both
    np.fill_diagonal(near, False)
    return bool(near[[grams.names.index(name) for name in new]].any())


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring elements of a tensor, of all rows."""

    tensor: int
    specs: Sequence[TensorSpec]
    start: int
    count: int
    nbytes: int


@dataclass(frozen=True)
class _Pass:
    """One reading of all checkpoints.

    Attributes:
        checkpoints: of the rows, the base first.
        tensors: that are compared.
        first: products of two rows before it are known and may be left out.
        device: "cpu", or a torch device.
        fine: whether all of the arithmetic is float64.
    """

    checkpoints: Sequence[Checkpoint]
    tensors: Sequence[Compared]
    first: int
    device: str
    fine: bool = False

    def run(self, progress: Progress | None, share: Share | None) -> Products:
        """Multiply all tensors, each by itself: so the result is the same however they are shared out."""
        if share is None:
            return self._products(self.tensors, progress)
        sizes = [
            sum(one.tensors[tensor.name].nbytes for one in self.checkpoints if not one.adapter)
            for tensor in self.tensors
        ]
        whole, before = sum(sizes), [0, *itertools.accumulate(sizes)]

        def measured(portion: range) -> list[np.ndarray]:
            def follow(done: int, _: int) -> None:
                if progress is not None:
                    progress(before[portion.start] + done, whole)

            return list(self._products(self.tensors[portion.start : portion.stop], follow))

        parts = list(share("fine" if self.fine else "first", measured, list(_portions(sizes))))
        gram, sums = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return gram, sums

    def factors_alone(self) -> Products:
        """Multiply adapters, with NaN for their base, which is not read."""
        rows = len(self.checkpoints)
        gram, sums = np.zeros((len(self.tensors), rows, rows)), np.zeros((len(self.tensors), rows))
        factored.add(gram[:, 1:, 1:], sums[:, 1:], self.checkpoints[1:], self.tensors, 0)
        gram[:, 0], gram[:, :, 0], sums[:, 0] = np.nan, np.nan, np.nan
        return gram, sums

    def is_coarse(self) -> bool:
        """Return whether some tensors are summed in float32."""
        whole = [one for one in self.checkpoints if not one.adapter]
        return (
            self.device == "cpu"
            and native.build() is not None
            and any(native.is_coarse([c.tensors[tensor.name] for c in whole], tensor.count) for tensor in self.tensors)
        )

    def _products(self, tensors: Sequence[Compared], progress: Progress | None) -> Products:
        rows, whole = len(self.checkpoints), [row for row, one in enumerate(self.checkpoints) if not one.adapter]
        found = self._products_on_disk(whole, tensors, progress)
        if len(whole) == rows:
            return found
        gram, sums = np.zeros((len(tensors), rows, rows)), np.zeros((len(tensors), rows))
        gram[:, np.array(whole)[:, None], whole], sums[:, whole] = found
        factored.add(gram, sums, self.checkpoints, tensors, self.first)
        return gram, sums

    def _products_on_disk(
        self, rows: Sequence[int], tensors: Sequence[Compared], progress: Progress | None
    ) -> Products:
        """Multiply rows whose weights are all on disk."""
        gram, sums = np.zeros((len(tensors), len(rows), len(rows))), np.zeros((len(tensors), len(rows)))
        stretches = list(_stretches([self.checkpoints[row] for row in rows], tensors))
        pending, early = list(enumerate(stretches)), dict[int, Products]()
        waiting = iter(pending)  # of all threads: each takes the next
        whole, done, added, lock = sum(stretch.nbytes for stretch in stretches), 0, 0, threading.Lock()

        def add(index: int, found: Products) -> None:
            """Add up in the order of the stretches, whichever was ready first: the same totals on every run."""
            nonlocal done, added
            early[index] = found
            while added in early:
                products, totals = early.pop(added)
                gram[stretches[added].tensor] += products
                sums[stretches[added].tensor] += totals
                added += 1
            done += stretches[index].nbytes
            if progress:
                progress(done, whole)

        def work(_: int) -> None:
            kernel = make()
            for index, stretch in waiting:
                try:
                    with handles.borrow([spec.file for spec in stretch.specs]) as files:
                        found = kernel(stretch.specs, files, stretch.start, stretch.count)
                except EOFError as error:
                    spec = stretch.specs[error.args[0]]
                    raise UserError(
                        f"{spec.file}: cannot be read to its end, in tensor {spec.name}; copy it again"
                    ) from None
                with lock:
                    add(index, found)

        make, threads = self._kernels(len(rows), sum(row < self.first for row in rows))
        with closing(Handles()) as handles, ThreadPoolExecutor(threads) as pool:
            try:
                for _ in pool.map(work, range(threads)):
                    pass
            finally:
                pending.clear()  # after an error or Ctrl-C, the threads end with the stretch that they are at
        return np.tril(gram) + np.tril(gram, -1).transpose(0, 2, 1), sums

    def _kernels(self, rows: int, first: int) -> tuple[Callable[[], Kernel], int]:
        """Return a factory of kernels, one a thread, and how many threads to use."""
        if self.device == "cpu" and native.build() is not None:
            return lambda: native.NativeKernel(rows, first, self.fine), processors()
        from src.kinship import torch_kernel  # a second or two, and only a GPU or a missing compiler needs it

        torch_kernel.check_device(self.device)
        return lambda: torch_kernel.TorchKernel(rows, self.device), 1 if self.device == "cpu" else 2


def _portions(sizes: Sequence[int]) -> Iterator[range]:
    """Group neighbouring tensors, up to _PORTION bytes at a time."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > _PORTION:
            yield range(start, index)
            start, total = index, 0
        total += size
    yield range(start, len(sizes))


def _stretches(checkpoints: Sequence[Checkpoint], tensors: Sequence[Compared]) -> Iterator[_Stretch]:
    """Cut the compared elements into pieces of at most _STRETCH, in order."""
    for index, tensor in enumerate(tensors):
        specs = [checkpoint.tensors[tensor.name] for checkpoint in checkpoints]
        width = sum(ITEM_BYTES[spec.dtype] for spec in specs)
        for start in range(0, tensor.count, _STRETCH):
            count = min(_STRETCH, tensor.count - start)
            yield _Stretch(index, specs, start, count, count * width)


def device_of(workers: str) -> str:
    """Return where a run measures: on the processors, but on its GPU where there is no C compiler.

    The kernel in C keeps up with the reading; the GPU waits for it, and was four times slower (docs/gpu.md).
    """
    return "cpu" if native.build() is not None else workers


def processors() -> int:
    """Return how many processors to use; more threads than eight would only wait for memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


def _check_finite(found: Grams, with_base: bool) -> None:
    """Raise UserError unless all sums are finite; the base comes first, since its NaN is in every delta."""
    for row, name in enumerate(("the base", *found.names)):
        wrong = np.flatnonzero(~np.isfinite(found.sums[:, row]))
        if len(wrong) and (row or with_base):
            raise UserError(
                f"{name} has NaN or infinite weights, first in {found.tensors[wrong[0]].name} "
                f"({len(wrong)} of {len(found.tensors)} tensors); expected finite ones: leave it out or train it again"
            )


def _check_changed(found: Grams, first: int) -> None:
    for row, name in enumerate(found.names, start=1):
        if row >= first and not found.gram[:, row, row].any():
            raise UserError(
                f"{name} is unchanged: its delta against the base is zero in every tensor; "
                "leave it out, or check that this is its base"
            )


def _check_unchanged(known: Grams, found: Grams) -> None:
    """Raise UserError where the sums of a known model are no longer those that were measured before."""
    rows = 1 + len(known.names)
    allowed = 1e-6 * np.sqrt(known.count[:, None] * np.diagonal(known.gram, axis1=1, axis2=2)) + 1e-300
    wrong = np.argwhere(np.abs(found.sums[:, :rows] - known.sums) > allowed)
    if len(wrong):
        tensor, row = wrong[np.lexsort((wrong[:, 0], wrong[:, 1]))[0]]
        name = "the base" if row == 0 else known.names[row - 1]
        raise UserError(
            f"{name} is not what was measured before (its {known.tensors[tensor].name} has changed); "
            "forget the stored kinship and measure again"
        )
