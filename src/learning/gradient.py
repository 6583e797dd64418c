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


class Stored(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by name, mapped from its files whenever one is looked at."""

    def __init__(self, folder: Path) -> None:
        self._files = [safe_open(file, framework="pt") for file in sorted(folder.glob("*.safetensors"))]
        self._where = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no mapping)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._where[name].get_tensor(name)

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
