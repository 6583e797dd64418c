"""Prediction: the kinship of an offspring that was never made.

These methods make each tensor of the offspring a combination of its parents' tensors whose coefficients depend on
nothing but the recipe and, for the spherical ones, on norms and inner products, which are known. So the Gram matrix of
the offspring is a combination of the Gram matrices that were measured. It is exact up to rounding: a merge that is
written in 16 bits rounds every weight, which no combination knows of (see src.kinship.rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from src.kinship.grams import Grams, Tensor
from src.kinship.metrics import kinship_matrix
from src.kinship.recipe import NotPredictable, Place, Recipe, read_recipe
from src.runtime.errors import UserError

Coefficients = dict[str, float]  # of the inputs' weights, by their names in the configuration
Inner = Callable[[Coefficients, Coefficients], float]  # product of two combinations of weights


def predict(grams: Grams, config: Mapping[str, Any], *, base: str = "base", name: str = "offspring") -> Grams:
    """Add a row to `grams` for the offspring that mergekit would make of a configuration.

    Args:
        grams: of all tensors (select from the result, not from this: a gradient needs to know all layers).
        config: as in mergekit's YAML. Models are named as in `grams`.
        base: how the configuration names the base of `grams`.
        name: of the new row.

    Raises:
        NotPredictable: a method other than linear, task_arithmetic, slerp and nuslerp (flattened), or slices.
        UserError: a model that was not measured, or a parameter that is missing or no number.
    """
    if name in grams.names:
        raise UserError(f"there is a model {name!r} already; give the offspring another name")
    return _with_row(grams, name, *_offspring(grams, config, base))


def _with_row(grams: Grams, name: str, row: np.ndarray, sums: np.ndarray) -> Grams:
    """Add a model with inner products `row` [T, n + 2] and `sums` [T]."""
    gram = np.pad(grams.gram, ((0, 0), (0, 1), (0, 1)))
    gram[:, -1] = gram[:, :, -1] = row
    return Grams((*grams.names, name), grams.tensors, gram, np.column_stack([grams.sums, sums]))


def _offspring(grams: Grams, config: Mapping[str, Any], base: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the offspring's inner products with {base, deltas, itself} [T, n + 2], and its sums [T]."""
    recipe = read_recipe(config)
    if recipe.method not in METHODS:
        raise NotPredictable(f"{recipe.method} is not linear in the weights; predicted are {', '.join(METHODS)}")
    named = (*recipe.models, recipe.origin or base)
    if unknown := [model for model in named if model != base and model not in grams.names]:
        raise UserError(f"the merge names {unknown[0]!r}, which was not measured; there are {', '.join(grams.names)}")
    places = {model: 0 if model == base else 1 + grams.names.index(model) for model in named}
    deepest = max(grams.layers(), default=0)
    products, sums = np.zeros((len(grams.tensors), len(grams.names) + 2)), np.zeros(len(grams.tensors))
    for i, tensor in enumerate(grams.tensors):
        known = grams.gram[i]

        def inner(a: Coefficients, b: Coefficients, known: np.ndarray = known) -> float:
            left, right = _on_rows(a, places), _on_rows(b, places)
            return sum(x * y * float(known[r, c]) for r, x in left.items() for c, y in right.items())

        place = tensor.name, _depth(tensor, deepest)
        delta = _on_rows(_scaled(METHODS[recipe.method](recipe, place, inner), recipe, place), places)
        delta[0] -= 1  # the offspring's weights, minus the base's
        used = [row for row, x in delta.items() if x]  # a row that plays no part may hold NaN
        factors = np.array([delta[row] for row in used])
        products[i, :-1] = factors @ known[used]
        products[i, -1] = factors @ known[np.ix_(used, used)] @ factors
        sums[i] = factors @ grams.sums[i, used]
    return products, sums


def _scaled(weights: Coefficients, recipe: Recipe, place: Place) -> Coefficients:
    """Scale what a treated merge changed against its origin."""
    if recipe.origin is None:
        return weights
    factor = recipe.number("treatment_scale", place, default=1.0)
    scaled = {model: factor * x for model, x in weights.items()}
    return scaled | {recipe.origin: scaled.get(recipe.origin, 0.0) + 1 - factor}


def predicted_kinship(grams: Grams, config: Mapping[str, Any], metric: str) -> dict[str, float] | None:
    """Return the planned offspring's kinship to every model of `grams`; None where it cannot be predicted.

    Of the pairs that are known already nothing is computed again: the cost grows with tensors times models.
    """
    try:
        row, sums = (part.sum(axis=0, keepdims=True) for part in _offspring(grams, config, "base"))
    except NotPredictable:
        return None
    known = grams.total()
    whole = (Tensor("all", "other", None, known.count),)
    planned = _with_row(Grams(grams.names, whole, known.gram[None], known.sums[None]), "offspring", row, sums)
    return dict(zip(grams.names, kinship_matrix(planned, metric)[-1, :-1].tolist(), strict=True))


def _on_rows(weights: Coefficients, places: Mapping[str, int]) -> dict[int, float]:
    """Express a combination of weights in the rows {base, deltas}: a model's weights are the base's and its delta."""
    rows = {0: sum(weights.values())}
    for model, x in weights.items():
        if places[model]:
            rows[places[model]] = x
    return rows


def _depth(tensor: Tensor, deepest: int) -> float:
    """Return where mergekit sees a tensor on the way from the first layer (0) to the last (1); 0 outside the layers."""
    if tensor.layer is None:
        return 0.0
    return tensor.layer / deepest if deepest else 1.0


def _linear(recipe: Recipe, place: Place, inner: Inner) -> Coefficients:
    """Return the weighted mean of all inputs, or their weighted sum."""
    weights = {model: recipe.number("weight", place, model) for model in recipe.models}
    if not recipe.flag("normalize", place, default=True):
        return weights
    total = sum(weights.values())
    if total == 0:
        raise UserError(f"the weights of the merge add up to 0 for {place[0]}, and cannot be normalized")
    return {model: weight / total for model, weight in weights.items()}


def _task_arithmetic(recipe: Recipe, place: Place, inner: Inner) -> Coefficients:
    """Return the merge's base plus the weighted sum of the others' differences from it."""
    base = _base_of(recipe)
    weights = {model: recipe.number("weight", place, model) for model in recipe.others}
    total = sum(weights.values())
    divisor = total if recipe.flag("normalize", place, default=False) and abs(total) >= 1e-8 else 1.0
    factor = recipe.number("lambda", place, default=1.0) / divisor
    scaled = {model: factor * weight for model, weight in weights.items()}
    return scaled | {base: 1 - sum(scaled.values())}


def _slerp(recipe: Recipe, place: Place, inner: Inner) -> Coefficients:
    """Interpolate on the arc from the merge's base to the other, linearly where they are collinear."""
    first, (second,) = _base_of(recipe), _two(recipe, 1)
    t = recipe.number("t", place)
    a, b = {first: 1.0}, {second: 1.0}
    lengths = [float(np.sqrt(max(inner(x, x), 0))) for x in (a, b)]
    scales = [length if length > 1e-8 else 1.0 for length in lengths]
    cosine = float(np.clip(inner(a, b) / scales[0] / scales[1], -1, 1))
    left, right = (1 - t, t) if abs(cosine) > 0.9995 else _arc(cosine, t)
    return {first: left, second: right}


def _nuslerp(recipe: Recipe, place: Place, inner: Inner) -> Coefficients:
    """Interpolate on the arc between the two others, or between their differences from the merge's base."""
    if not recipe.flag("nuslerp_flatten", place, default=True):
        raise NotPredictable("nuslerp row by row needs the inner products of rows; only nuslerp_flatten is predicted")
    first, second = _two(recipe, 2)
    weights = [recipe.number("weight", place, model) for model in (first, second)]
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    minus = {} if recipe.base is None else {recipe.base: -1.0}
    a, b = {first: 1.0} | minus, {second: 1.0} | minus
    lengths = [max(float(np.sqrt(max(inner(x, x), 0))), 1e-7) for x in (a, b)]
    # mergekit rounds the cosine to float32, and then takes 1 and -1 alone for collinear.
    cosine = float(np.float32(np.clip(inner(a, b) / lengths[0] / lengths[1], -1, 1)))
    left, right = (1 - t, t) if 1 - cosine**2 <= 1e-16 else _arc(cosine, t)
    return {first: left, second: right} | ({} if recipe.base is None else {recipe.base: 1 - left - right})


METHODS: dict[str, Callable[[Recipe, Place, Inner], Coefficients]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
}


def _arc(cosine: float, t: float) -> tuple[float, float]:
    """Return the coefficients of the point at `t` of the way on the arc between two vectors with that cosine."""
    angle = float(np.arccos(cosine))
    return float(np.sin((1 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))


def _base_of(recipe: Recipe) -> str:
    if recipe.base is None:
        raise UserError(f"{recipe.method} needs a base_model; the configuration has none")
    return recipe.base


def _two(recipe: Recipe, wanted: int) -> tuple[str, ...]:
    """Return the inputs other than the merge's base, of which there must be as many as the method takes."""
    if len(recipe.others) != wanted:
        raise UserError(f"{recipe.method} merges {wanted} besides its base_model; found {len(recipe.others)}")
    return recipe.others
