"""Merge methods of our own, which mergekit knows by name once this package is imported.

regression   wudi, actmat, regmean: what keeps each founder's answers on the inputs that its own change points to
singular     tsv_m, iso_c: from singular vectors and values
matrices     what of a tensor is a matrix, what founders changed in it, and the way from there to a merged tensor
inputs       what a founder's weights see while it reads prompts, for regmean
calibration  svc: singular values brought back to what one founder has
treated      whatever another method merged, scaled layer by layer and calibrated
lineage      offspring of offspring, from the founders
cost         what a merge takes
forecast     what the plan says of it
"""

from mergekit.merge_methods import registry

from src.models.methods.regression import actmat, regmean, wudi
from src.models.methods.singular import iso_c, tsv_m
from src.models.methods.treated import register
from src.runtime.names import TREATED

METHODS = (wudi, actmat, regmean, tsv_m, iso_c)

for method in METHODS:
    registry.register(method)
del method
register()


def is_ours(method: str) -> bool:
    """Return whether mergekit knows a method of this name only once this package is imported."""
    return method.startswith(TREATED) or method in {one.spec.name for one in METHODS}
