"""A weighted sum of models, and the gradient of a loss by its weights: ⟨∂L/∂W, δ⟩, tensor by tensor.

The derivative of L(base + Σ c[i, b] δ[i]) by c[i, b] is the sum, over the tensors W of block b, of the inner products
of ∂L/∂W with what direction i changed in W. They are taken as soon as a tensor's gradient is there, which is then
dropped; no gradient outlives its tensor, and no state of an optimiser belongs to a weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from src.runtime.errors import UserError

Tensors = Mapping[str, torch.Tensor]
SPARE = 0.1
"""Share of a GPU's memory that stays free, since later batches may be larger."""


class Room:
    """Memory of a GPU that no pass needs, for tensors that are looked at again and again; none on other devices."""

    def __init__(self, device: str = "cpu", share: float = 1.0) -> None:
        """Find room on this device, of what is left there this share: others may use it too."""
        self.device, self.left = torch.device(device), 0
        self._share, self._unknown = share, self.device.type == "cuda"
        self._kept: list[dict[str, torch.Tensor]] = []

    def look(self) -> None:
        """Look how much is left, once a pass has shown what it takes; SPARE of the GPU stay free."""
        if self._unknown:
            free, total = torch.cuda.mem_get_info(self.device)  # what torch has reserved is not free
            self.left, self._unknown = max(0, int(self._share * (free - SPARE * total))), False

    def place(self) -> dict[str, torch.Tensor]:
        """Return where one checkpoint's tensors are kept."""
        self._kept.append({})
        return self._kept[-1]

    def take(self, kept: dict[str, torch.Tensor], name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor, from now on kept on the device if there is room for it."""
        if tensor.nbytes > self.left:
            return tensor
        self.left -= tensor.nbytes
        kept[name] = tensor.to(self.device)
        return kept[name]

    def clear(self) -> bool:
        """Keep nothing any more; return False where nothing was kept."""
        found = any(self._kept)
        for kept in self._kept:
            kept.clear()
        self.left = 0
        return found


class Stored(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by name, mapped from its files whenever one is looked at, or kept where is room."""

    def __init__(self, folder: Path, room: Room | None = None) -> None:
        self._files = [safe_open(file, framework="pt") for file in sorted(folder.glob("*.safetensors"))]
        self._where = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no mapping)
        self._room = room or Room()
        self._kept = self._room.place()

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._kept:
            return self._kept[name]
        return self._room.take(self._kept, name, self._where[name].get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """base + Σ c[i, b] δ[i], written into a model, and differentiated by c.

    Attributes:
        base: the base's tensors by name.
        directions: of D models, their tensors by name.
        blocks: the block, 0 to B - 1, of every tensor that directions change; others stay the base's.
    """

    base: Tensors
    directions: Sequence[Tensors]
    blocks: Mapping[str, int]

    def check(self, model: torch.nn.Module) -> None:
        """Refuse a model whose weights have other names or shapes than on disk.

        Raises:
            UserError: naming the first.
        """
        for name, weight in model.named_parameters():
            found = [tuple(one[name].shape) if name in one else None for one in (self.base, *self.directions)]
            if any(shape != tuple(weight.shape) for shape in found):
                raise UserError(
                    f"{name} is {tuple(weight.shape)} in the loaded model, {found[0]} in the base's files, and "
                    f"{found[1:]} in the others'; what is learned by gradient needs all alike: take another strategy=…"
                )

    @torch.no_grad()
    def write(self, model: torch.nn.Module, weights: np.ndarray) -> None:
        """Make a model's parameters the sum under these weights [D, B]: summed in float32 or more, rounded once."""
        for name, weight in model.named_parameters():
            exact = _exact(weight)
            base = self.base[name].to(weight.device, exact)
            total = base.clone()
            if name in self.blocks:
                for one, factor in zip(self.directions, weights[:, self.blocks[name]].tolist(), strict=True):
                    if factor:
                        total.add_(one[name].to(weight.device, exact) - base, alpha=factor)
            weight.copy_(total)

    def gradient(self, model: torch.nn.Module, size: int, loss: Callable[[], torch.Tensor]) -> tuple[float, np.ndarray]:
        """Return a loss and its derivatives by the weights.

        Args:
            model: that `write` has given its weights.
            size: B, the number of blocks.
            loss: computes it, as a tensor that knows its graph.

        Returns:
            The loss, and float64 [D, B].
        """
        pending: list[tuple[int, torch.Tensor]] = []

        def take(name: str, weight: torch.nn.Parameter) -> None:
            assert weight.grad is not None
            if name in self.blocks:
                exact = _exact(weight)
                gradient = weight.grad.to(exact)
                base = self.base[name].to(weight.device, exact)
                inner = [
                    (one[name].to(weight.device, exact) - base).mul_(gradient).sum(dtype=torch.float64)
                    for one in self.directions
                ]
                pending.append((self.blocks[name], torch.stack(inner)))
            weight.grad = None

        with ExitStack() as hooks:
            hooks.callback(model.zero_grad)  # what is left of a pass that was too large
            for name, weight in model.named_parameters():
                hook: Any = weight.register_post_accumulate_grad_hook(lambda w, name=name: take(name, w))
                hooks.callback(hook.remove)
            total = loss()
            total.backward()
        found = np.zeros((len(self.directions), size))
        for block, inner in pending:
            found[:, block] += inner.cpu().numpy()
        return float(total.detach()), found


@contextmanager
def recomputed(model: Any, wanted: bool) -> Iterator[None]:
    """Have a transformers model's layers keep their inputs only, and compute the rest again for the gradient."""
    if not wanted:
        yield
        return
    with warnings.catch_warnings():  # of the name, which is to change with transformers 6
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # the embeddings are among what is differentiated
        layers = [one for one in model.modules() if getattr(one, "gradient_checkpointing", False)]
        for layer in layers:
            layer.training = True  # the layer alone, of which transformers asks it; nothing within it drops out
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False
            model.gradient_checkpointing_disable()


def _exact(weight: torch.Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32
