"""How fast answers of recipes are predicted: python -m benchmarks.surrogate (--help for sizes; a minute or three).

Generated models (recipes of 5 directions by 10 blocks) with generated answers. It puts side by side

    surrogate     src.surrogate: learning hyperparameters, fitting, predicting 16 recipes' answers with their variance
    limit         for each of these only what nothing can do without: the product Y Yᵀ; one Cholesky factorisation and
                  the solve for all answers; one product [16, E] × [E, A]
    scikit-learn  GaussianProcessRegressor, the answers as columns of one output
    GPyTorch      an exact process an answer in one batch; and with one kernel matrix, expanded over the batch, as its
                  issue 2628 advises (where it is installed: pip install gpytorch)

Every rival gets the kernel with the hyperparameters that the surrogate found, and each answer's mean; `one step` is one
evaluation of its marginal likelihood with gradient. What needs a matrix an answer is given fewer of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.kinship import timed
from src.surrogate.kernel import Pairs, noise, read
from src.surrogate.process import Process, fit
from src.surrogate.space import Space

DIRECTIONS, BLOCKS, WANTED = 5, 10, 16


@dataclass(frozen=True)
class Case:
    """Recipes [E, n, B], their answers [E, A] and recipes wanted; the process whose hyperparameters the rivals get."""

    process: Process
    recipes: np.ndarray
    answers: np.ndarray
    wanted: np.ndarray

    def features(self, recipes: np.ndarray) -> np.ndarray:
        """Return points [M, k] whose inner products are Σ_b w_b ⟨δ_b, δ_b'⟩: of stock parts is the kernel made."""
        root = torch.linalg.cholesky(self.process.space.metric) * self.process.hyper[:-3].exp().sqrt()[:, None, None]
        return torch.einsum("bnk,mnb->mbk", root, torch.from_numpy(recipes)).reshape(len(recipes), -1).numpy()

    def centred(self) -> np.ndarray:
        """Return the answers without each one's mean, in its standard deviation: [E, A]."""
        return (self.answers - self.process.mean.numpy()) / self.process.unit.sqrt().numpy()

    def answered(self, centred: np.ndarray) -> np.ndarray:
        """Return the answers that such centred ones are."""
        return np.asarray(centred * self.process.unit.sqrt().numpy() + self.process.mean.numpy())


@dataclass
class Result:
    """Seconds for learning (or one step of it), fitting and predicting, and the answers [M, A] predicted."""

    learn: float
    fit: float
    predict: float
    answers: np.ndarray


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500, help="answers, for what needs a matrix an answer")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    methods: list[tuple[str, Callable[[Case], Result], int]] = [
        ("surrogate", surrogate, options.answers),
        ("limit", limit, options.answers),
        ("scikit-learn", scikit, options.answers),
        ("surrogate", surrogate, options.batch),
        ("scikit-learn, one step", scikit_step, options.batch),
    ]
    if importlib.util.find_spec("gpytorch"):
        methods.append(("GPyTorch, batch, one step", gpytorch_batch, options.batch))
        methods.append(("GPyTorch, one kernel expanded, one step", gpytorch_expanded, options.batch))
    print(f"{options.models} models, {torch.get_num_threads()} threads; least of {options.repeats}\n")
    print("| method | answers | learn s | fit s | predict s | peak MB | error |\n|---|---|---|---|---|---|---|")
    for name, method, count in methods:
        print(row(name, method, case(options.models, count), options.repeats), flush=True)
    if not importlib.util.find_spec("gpytorch"):
        print("\nGPyTorch is not installed")


def row(name: str, method: Callable[[Case], Result], case: Case, repeats: int) -> str:
    """Return one line of the table."""
    results: list[Result] = []
    peak = max(timed(lambda: results.append(method(case))).peak for _ in range(repeats))
    expected = case.process.predict(torch.from_numpy(case.wanted))[0].numpy()
    error = np.abs(results[-1].answers - expected).max()
    seconds = (min(getattr(one, step) for one in results) for step in ("learn", "fit", "predict"))
    cells = [
        name,
        f"{case.answers.shape[1]:,}",
        *(f"{one:.3f}" for one in seconds),
        f"{peak / 1e6:.0f}",
        f"{error:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def case(models: int, answers: int) -> Case:
    """Generate recipes of so many models and so many answers to each, that bend somewhat."""
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(BLOCKS, DIRECTIONS, 64))
    names = tuple(f"direction {i}" for i in range(DIRECTIONS)), tuple(f"block {i}" for i in range(BLOCKS))
    space = Space(*names, deltas @ deltas.transpose(0, 2, 1))
    recipes = rng.uniform(0, 1, size=(models + WANTED, DIRECTIONS, BLOCKS))
    flat = recipes.reshape(len(recipes), -1)
    bends = np.sin(flat @ rng.normal(size=(flat.shape[1], 32)) / 3) @ rng.normal(size=(32, answers))
    answered = flat @ rng.normal(size=(flat.shape[1], answers)) / 5 + bends
    return Case(fit(space, recipes[:models], answered[:models]), recipes[:models], answered[:models], recipes[models:])


def surrogate(case: Case) -> Result:
    """Learn, fit and predict as the search does; learning is what the whole takes beyond fitting."""
    began = time.perf_counter()
    process = fit(case.process.space, case.recipes, case.answers)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    fit(case.process.space, case.recipes, case.answers, hyper=process.hyper)
    fitted = time.perf_counter() - began
    began = time.perf_counter()
    mean, _ = process.predict(torch.from_numpy(case.wanted))
    return Result(whole - fitted, fitted, time.perf_counter() - began, mean.numpy())


def limit(case: Case) -> Result:
    """Do what nothing can do without."""
    values, process = torch.from_numpy(case.centred()), case.process
    pairs = Pairs.of(process.space, process.recipes)
    kernel = pairs.kernel(process.hyper) + noise(process.hyper) * torch.eye(len(values), dtype=torch.float64)
    cross = Pairs.of(process.space, torch.from_numpy(case.wanted), process.recipes).kernel(process.hyper)
    began = time.perf_counter()
    values @ values.T
    learn = time.perf_counter() - began
    began = time.perf_counter()
    alpha = torch.cholesky_solve(values, torch.linalg.cholesky(kernel))
    fitted = time.perf_counter() - began
    began = time.perf_counter()
    mean = cross @ alpha
    return Result(learn, fitted, time.perf_counter() - began, case.answered(mean.numpy()))


def scikit(case: Case, step: bool = False) -> Result:
    """Fit and predict with scikit-learn; on request, the likelihood with its gradient."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

    _, linear, reach = (value.numpy() for value in read(case.process.hyper))
    kernel = ConstantKernel(linear) * DotProduct(0.0, "fixed") + ConstantKernel(1 - linear) * RBF(reach)
    regressor = GaussianProcessRegressor(kernel, alpha=float(noise(case.process.hyper)), optimizer=None)
    points, values = case.features(case.recipes), case.centred()
    began = time.perf_counter()
    regressor.fit(points, values)
    fitted = time.perf_counter() - began
    began = time.perf_counter()
    if step:
        regressor.log_marginal_likelihood(regressor.kernel_.theta, eval_gradient=True)
    learn = time.perf_counter() - began if step else float("nan")
    began = time.perf_counter()
    mean, _ = regressor.predict(case.features(case.wanted), return_std=True)
    return Result(learn, fitted, time.perf_counter() - began, case.answered(mean))


def scikit_step(case: Case) -> Result:
    """Do the same, and one step of learning."""
    return scikit(case, step=True)


def gpytorch_batch(case: Case) -> Result:
    """Take a step of learning, fit and predict with GPyTorch: every answer a process of a batch."""
    return _gpytorch(case, expanded=False)


def gpytorch_expanded(case: Case) -> Result:
    """Do the same with one kernel matrix for all of the batch."""
    return _gpytorch(case, expanded=True)


def _gpytorch(case: Case, expanded: bool) -> Result:
    import gpytorch

    batch = torch.Size([case.answers.shape[1]])
    shape = torch.Size([]) if expanded else batch
    _, linear, reach = read(case.process.hyper)
    flat, bent = gpytorch.kernels.LinearKernel(batch_shape=shape), gpytorch.kernels.RBFKernel(batch_shape=shape)
    scaled = gpytorch.kernels.ScaleKernel(bent, batch_shape=shape)
    flat.variance, scaled.outputscale, bent.lengthscale = linear, 1 - linear, reach

    class Model(gpytorch.models.ExactGP):
        def forward(self, points: torch.Tensor) -> Any:
            matrix = (flat + scaled)(points if not expanded else points[0])
            matrix = matrix.expand(*batch, *matrix.shape[-2:]) if expanded else matrix
            return gpytorch.distributions.MultivariateNormal(points.new_zeros(points.shape[:-1]), matrix)

    points = torch.from_numpy(case.features(case.recipes)).expand(*batch, -1, -1)
    values = torch.from_numpy(case.centred()).T.contiguous()
    likelihood = gpytorch.likelihoods.GaussianLikelihood(batch_shape=shape)
    model = Model(points, values, likelihood)
    model.flat, model.scaled = flat, scaled
    model.double()
    likelihood.noise = noise(case.process.hyper)
    exact = gpytorch.settings.fast_computations(False, False, False)
    with exact:
        began = time.perf_counter()
        loss = -gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)(model(points), values).sum()
        loss.backward()
        learn = time.perf_counter() - began
    model.eval()
    wanted = torch.from_numpy(case.features(case.wanted)).expand(*batch, -1, -1)
    with exact, torch.no_grad():
        began = time.perf_counter()
        first = model(wanted)
        _ = first.mean, first.variance
        fitted = time.perf_counter() - began
        began = time.perf_counter()
        second = model(wanted)
        mean, _ = second.mean, second.variance
        predict = time.perf_counter() - began
    return Result(learn, fitted - predict, predict, case.answered(mean.T.numpy()))


if __name__ == "__main__":
    main()
