"""The space of recipes: directions × blocks, with the geometry that kinship has measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Space:
    """All merged models base + Σ c[i, b] · δ[i, b], where δ[i, b] is direction i's delta on the tensors of block b.

    Attributes:
        directions: names of the n deltas: the founders', and those of merges made by other methods.
        blocks: names of the B parts of the model that have a weight of their own.
        grams: float64 [B, n, n], inner products of the directions' deltas on each block.

    Raises:
        ValueError: from the constructor, for shapes that do not fit, directions not measured, what is no Gram matrix.
    """

    directions: tuple[str, ...]
    blocks: tuple[str, ...]
    grams: np.ndarray

    def __post_init__(self) -> None:
        grams, wanted = np.asarray(self.grams, dtype=float), (len(self.blocks), *2 * (len(self.directions),))
        if grams.shape != wanted:
            raise ValueError(f"grams [B, n, n] should be {wanted}, is {grams.shape}")
        if not np.isfinite(grams).all():
            raise ValueError("grams has NaN or infinity: a direction was not measured")
        size = max(float(np.abs(grams).max(initial=0.0)), 1e-300)
        uneven = np.abs(grams - grams.transpose(0, 2, 1)) > 1e-9 * size
        if uneven.any() or (np.linalg.eigvalsh(grams) < -1e-6 * size).any():
            raise ValueError("grams should be symmetric, without negative eigenvalues")
        object.__setattr__(self, "grams", grams)

    @property
    def shape(self) -> tuple[int, int]:
        """Of a recipe: (n directions, B blocks)."""
        return len(self.directions), len(self.blocks)

    @cached_property
    def metric(self) -> torch.Tensor:
        """float64 [B, n, n]: the Gram matrices, in the mean squared length of a direction's whole delta."""
        length = np.einsum("bii->i", self.grams).mean()
        return torch.from_numpy(self.grams / (length if length > 0 else 1.0))

    def inner(self, these: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
        """Return the inner products [B, M, E] of recipes [M, n, B] with recipes [E, n, B], by block."""
        return these.permute(2, 0, 1) @ self.metric @ those.permute(2, 1, 0)

    def squares(self, recipes: torch.Tensor) -> torch.Tensor:
        """Return the squared lengths [B, M] of recipes [M, n, B], by block."""
        turned = recipes.permute(2, 0, 1)
        return ((turned @ self.metric) * turned).sum(-1)

    def distances(self, these: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
        """Return how far apart in weight space recipes [M, n, B] and [E, n, B] lie, [M, E], in directions' lengths."""
        squares = self.squares(these)[:, :, None] + self.squares(those)[:, None] - 2 * self.inner(these, those)
        return squares.sum(0).clamp_min(0.0).sqrt()
