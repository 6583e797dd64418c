"""The same arithmetic in torch: on a GPU, and on a machine without a C compiler."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from src.kinship.grams import Products
from src.models.header import ITEM_BYTES, TensorSpec
from src.runtime.errors import UserError

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_CPU_BYTES, _GPU_BYTES = 512 << 10, 64 << 20  # a block of all models: one that stays in the cache, one worth a launch


def check_device(device: str) -> None:
    """Raise UserError unless torch can compute there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {device!r} cannot be used ({reason}); expected cpu, or cuda where torch has it"
        ) from None


class TorchKernel:
    """Reads stretches of tensors into reused buffers (pinned for a GPU) and multiplies them in float64 on `device`.

    One instance serves one thread. `rows` counts the base. All pairs are computed: on a GPU they cost nothing.
    """

    def __init__(self, rows: int, device: str) -> None:
        gpu = device != "cpu"
        self._rows, self._device = rows, device
        self._bytes = _GPU_BYTES if gpu else _CPU_BYTES
        self._raw = torch.empty(self._bytes, dtype=torch.uint8, pin_memory=gpu)
        self._view = memoryview(self._raw.numpy().data)

    def __call__(self, specs: Sequence[TensorSpec], files: Sequence[int], start: int, count: int) -> Products:
        """Return gram [rows, rows] and sums [rows] of `count` elements from `start` on; EOFError(row) at its end."""
        block = max(8, self._bytes // sum(ITEM_BYTES[spec.dtype] for spec in specs) // 8 * 8)
        gram = torch.zeros(self._rows, self._rows, dtype=torch.float64, device=self._device)
        sums = torch.zeros(self._rows, dtype=torch.float64, device=self._device)
        for begin in range(start, start + count, block):
            here = min(block, start + count - begin)
            deltas = torch.empty(self._rows, here, dtype=torch.float64, device=self._device)
            for row, raw in enumerate(self._read(specs, files, begin, here, block)):
                deltas[row] = raw.to(self._device)
            deltas[1:] -= deltas[0]
            gram += deltas @ deltas.T
            sums += deltas.sum(dim=1)
        return gram.cpu().numpy(), sums.cpu().numpy()

    def _read(
        self, specs: Sequence[TensorSpec], files: Sequence[int], begin: int, count: int, block: int
    ) -> list[torch.Tensor]:
        """Read `count` elements of every model, each in its own dtype, as views of the buffer."""
        views, at = [], 0
        for row, (spec, file) in enumerate(zip(specs, files, strict=True)):
            size = ITEM_BYTES[spec.dtype]
            done, nbytes = 0, count * size
            while done < nbytes:
                got = os.preadv(file, [self._view[at + done : at + nbytes]], spec.offset + begin * size + done)
                if not got:
                    raise EOFError(row)
                done += got
            views.append(self._raw[at : at + nbytes].view(_DTYPES[spec.dtype]))
            at += block * size
        return views
