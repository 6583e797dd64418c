"""Which hyperparameters make the answers likely: the marginal likelihood, summed over all answers.

The mean of each answer is integrated out with a flat prior (Rasmussen and Williams 2006, equation 2.45), the variance v
of each group g of answers is at its best. Let the models that gave answers make them fall into parts p, of A_p answers;
then

    ½ Σ_g N_g log v_g + Σ_p A_p (½ log |K_p| + ½ log 1ᵀ K_p⁻¹ 1),    v_g = Σ_p tr(Q_p Y_pg Y_pgᵀ) / N_g

is what is to be small, with N_g the degrees of freedom: the answers are needed through Y Yᵀ alone, [E, E].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize

from src.surrogate.kernel import Pairs, factors, noise, precisions

EFFECTIVE = 20.0
"""How many independent answers all answers together count for against the prior: those of one model err together."""

PRIOR = {"weight": (0.0, 0.7), "linear": (0.0, 2.0), "reach": (0.5, 1.0), "noise": (math.log(0.02), 1.5)}
"""Mean and width of the normal priors: log block weights, logit linear share, log length scale, log noise."""

_BOUNDS = {"weight": (-3.0, 3.0), "linear": (-6.0, 6.0), "reach": (-2.0, 3.0), "noise": (math.log(1e-5), 0.0)}
_STARTS = ({"linear": 1.0, "reach": 0.5}, {"linear": 0.0, "reach": 0.0}, {"linear": 2.0, "reach": 1.5})
"""Where the search begins, besides at the means of the priors."""
_STEPS = 60
_FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the likelihood needs of the answers.

    Attributes:
        pairs: of the E evaluated recipes with themselves.
        known: bool [P, E], the models that gave the answers of each part.
        scatter: float64 [P, G, E, E], Y Yᵀ of the answers of each part and group.
        count: float64 [P, G], how many answers that are.
    """

    pairs: Pairs
    known: torch.Tensor
    scatter: torch.Tensor
    count: torch.Tensor

    def variances(self, chol: torch.Tensor) -> torch.Tensor:
        """Return the likeliest variance of each group of answers, [G]; 1 where too few models answered to tell."""
        squares = torch.einsum("pef,pgef->g", precisions(chol, self.known), self.scatter)
        freedom = self._freedom()
        return torch.where(freedom > 0, squares.clamp_min(0.0) / freedom.clamp_min(1.0) + _FLOOR, 1.0)

    def loss(self, hyper: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood of one answer, on average."""
        chol = factors(self.pairs.kernel(hyper), noise(hyper), self.known)
        known = self.known[:, :, None].to(chol.dtype)
        sure = (torch.linalg.solve_triangular(chol, known, upper=False) ** 2).sum((1, 2))  # 1ᵀ K⁻¹ 1, [P]
        sizes = chol.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * torch.where(sure > 0, sure, 1.0).log()
        fits = 0.5 * self._freedom() @ self.variances(chol).log()
        return (fits + self.count.sum(1) @ sizes) / self.count.sum().clamp_min(1.0)

    def _freedom(self) -> torch.Tensor:
        return (self.known.sum(1) - 1).clamp_min(0).to(self.count.dtype) @ self.count


def gather(pairs: Pairs, values: torch.Tensor, known: torch.Tensor, part: np.ndarray, group: np.ndarray) -> Evidence:
    """Return what the likelihood needs of answers [E, A], which are 0 where not known.

    Args:
        pairs: of the recipes.
        values: float64 [E, A].
        known: bool [P, E].
        part, group: int [A], of each answer.
    """
    parts, groups, models = len(known), int(group.max(initial=0)) + 1, len(values)
    place = part * groups + group
    scatter = torch.zeros(parts * groups, models, models, dtype=torch.float64)
    for one in np.unique(place):
        some = values if (place == one).all() else values[:, torch.from_numpy(np.flatnonzero(place == one))]
        scatter[one] = some @ some.T
    count = torch.from_numpy(np.bincount(place, minlength=parts * groups).astype(float)).reshape(parts, groups)
    return Evidence(pairs, known, scatter.reshape(parts, groups, models, models), count)


def density(evidence: Evidence, hyper: torch.Tensor) -> torch.Tensor:
    """Return the negative log posterior density of hyperparameters [B + 3], but for a constant."""
    centre, width = torch.tensor([PRIOR[name] for name in _names(evidence)], dtype=torch.float64).T
    return EFFECTIVE * evidence.loss(hyper) + 0.5 * (((hyper - centre) / width) ** 2).sum()


def likeliest(evidence: Evidence) -> torch.Tensor:
    """Return the hyperparameters [B + 3] of the largest posterior density, the best of a few starts."""

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        hyper = torch.from_numpy(numbers.copy()).requires_grad_()
        value = density(evidence, hyper)
        value.backward()
        assert hyper.grad is not None
        return float(value.detach()), hyper.grad.numpy()

    names, found = _names(evidence), []
    for start in _STARTS:
        first = np.array([start.get(name, PRIOR[name][0]) for name in names])
        bounds, options = [_BOUNDS[name] for name in names], {"maxiter": _STEPS}
        found.append(optimize.minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options))
    return torch.from_numpy(min(found, key=lambda one: float(one.fun)).x)


def _names(evidence: Evidence) -> list[str]:
    return ["weight"] * len(evidence.pairs.inner) + ["linear", "reach", "noise"]
