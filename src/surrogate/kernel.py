"""The kernel of recipes, from the inner products that kinship has measured, and its factors where answers are missing.

    k(c, c') = l · Σ_b w_b ⟨δ_b, δ_b'⟩ + (1 − l) · exp(−Σ_b w_b |δ_b − δ_b'|² / 2 r²)

with δ_b what a recipe adds to the base in block b. The first part is what a small change of weights does to first
order; the second lets the answers bend.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from src.surrogate.space import Space

JITTER = 1e-8
"""Added to every noise, in units of the answers' variance."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the kernel of M recipes with E others needs of them, whatever its hyperparameters.

    Attributes:
        inner: float64 [B, M, E], inner products by block.
        these, those: float64 [B, M] and [B, E], squared lengths by block.
    """

    inner: torch.Tensor
    these: torch.Tensor
    those: torch.Tensor

    @staticmethod
    def of(space: Space, these: torch.Tensor, those: torch.Tensor | None = None) -> Pairs:
        """Return those of recipes [M, n, B] with recipes [E, n, B], or with themselves."""
        others = these if those is None else those
        return Pairs(space.inner(these, others), space.squares(these), space.squares(others))

    def kernel(self, hyper: torch.Tensor) -> torch.Tensor:
        """Return k [M, E]."""
        weight, linear, reach = read(hyper)
        inner = torch.einsum("b,bme->me", weight, self.inner)
        far = (weight @ self.these)[:, None] + (weight @ self.those)[None] - 2 * inner
        return linear * inner + (1 - linear) * torch.exp(-far.clamp_min(0.0) / (2 * reach**2))

    def itself(self, hyper: torch.Tensor) -> torch.Tensor:
        """Return the k [M] of each of the M recipes with itself."""
        weight, linear, _ = read(hyper)
        return linear * (weight @ self.these) + (1 - linear)


def read(hyper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the block weights w [B], the linear share l and the length scale r of hyperparameters [B + 3]."""
    return hyper[:-3].exp(), torch.sigmoid(hyper[-3]), hyper[-2].exp()


def noise(hyper: torch.Tensor) -> torch.Tensor:
    """Return the variance of what no recipe explains, in units of the answers' own."""
    return hyper[-1].exp() + JITTER


def factors(kernel: torch.Tensor, noise: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the lower Cholesky factors [P, E, E] of k [E, E] with noise, one for the models known [P, E] to each part.

    The rows and columns of the others are those of the identity: solving with zeros there leaves zeros.
    """
    eye = torch.eye(len(kernel), dtype=kernel.dtype)
    both = known[:, :, None] & known[:, None, :]
    return torch.linalg.cholesky(torch.where(both, kernel + noise * eye, eye))


def precisions(chol: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return Q = K⁻¹ − K⁻¹ 1 1ᵀ K⁻¹ / (1ᵀ K⁻¹ 1) of each part, [P, E, E]: K⁻¹ after the mean was estimated, Q 1 = 0."""
    inverse = torch.cholesky_inverse(chol) * known[:, :, None]  # nobody asked: 0
    ones = inverse @ known[:, :, None].to(chol.dtype)  # K⁻¹ 1, [P, E, 1]
    total = ones.sum(1, keepdim=True)
    return inverse * known[:, None, :] - ones @ ones.mT / torch.where(total > 0, total, 1.0)
