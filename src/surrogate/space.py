"""The space of recipes: directions × blocks, with the geometry that kinship has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Space:
    """All merged models base + Σ c[i, b] · δ[i, b], where δ[i, b] is direction i's delta on the tensors of block b.

    Attributes:
        directions: names of the n deltas: the founders', merges made by other methods, models of earlier runs.
        blocks: names of the B parts of the model that have a weight of their own.
        grams: float64 [B, n, n], inner products of the directions' deltas on each block.
        free: [n], whether new recipes may take of a direction; the others are anchors, models that were evaluated and
            measured and are known by their place alone. Empty: all.

    Raises:
        ValueError: from the constructor, for shapes that do not fit, directions not measured, what is no Gram matrix.
    """

    directions: tuple[str, ...]
    blocks: tuple[str, ...]
    grams: np.ndarray
    free: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        grams, wanted = np.asarray(self.grams, dtype=float), (len(self.blocks), *2 * (len(self.directions),))
        if grams.shape != wanted:
            raise ValueError(f"grams [B, n, n] should be {wanted}, is {grams.shape}")
        if not np.isfinite(grams).all():
            raise ValueError("grams has NaN or infinity: a direction was not measured")
        if len(free := self.free or (True,) * len(self.directions)) != len(self.directions) or not any(free):
            raise ValueError(
                f"free should tell of each of {len(self.directions)} directions, one of them at least free"
            )
        size = max(float(np.abs(grams).max(initial=0.0)), 1e-300)
        if (np.abs(grams - grams.transpose(0, 2, 1)) > 1e-9 * size).any() or (
            np.linalg.eigvalsh(grams) < -1e-6 * size
        ).any():
            raise ValueError("grams should be symmetric, without negative eigenvalues")
        object.__setattr__(self, "grams", grams)
        object.__setattr__(self, "free", tuple(map(bool, free)))

    @property
    def shape(self) -> tuple[int, int]:
        """Of a recipe: (n directions, B blocks)."""
        return len(self.directions), len(self.blocks)

    @cached_property
    def metric(self) -> torch.Tensor:
        """float64 [B, n, n]: the Gram matrices, in the mean squared length of a free direction's whole delta."""
        lengths = np.einsum("bii->i", self.grams)[list(self.free)].mean()
        return torch.from_numpy(self.grams / (lengths if lengths > 0 else 1.0))

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

    def single(self, direction: str, weight: float = 1.0) -> np.ndarray:
        """Return the recipe [n, B] that takes one direction, with the same weight in every block."""
        recipe = np.zeros(self.shape)
        recipe[self.directions.index(direction)] = weight
        return recipe

    def mixed(self, weights: Sequence[float]) -> np.ndarray:
        """Return the recipe [n, B] with these weights [n] of the directions in every block."""
        return np.repeat(np.asarray(weights, dtype=float)[:, None], len(self.blocks), axis=1)

    def freed(self, recipe: np.ndarray) -> np.ndarray:
        """Return the recipe [n, B] without anchors that lies nearest in weight space: the same one if it has none."""
        free = np.array(self.free)
        if not recipe[~free].any():
            return recipe.copy()
        nearest = np.zeros(self.shape)
        for block, gram in enumerate(self.grams):
            solved = np.linalg.pinv(gram[np.ix_(free, free)], rcond=1e-10, hermitian=True)
            nearest[free, block] = recipe[free, block] + solved @ gram[np.ix_(free, ~free)] @ recipe[~free, block]
        return nearest
