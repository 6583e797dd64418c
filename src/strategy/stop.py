"""When an evolution has nothing more to gain, or no more to spend. Each rule has words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from src.population import KinshipTable, Population, Spent

SATURATION = 0.9
"""Mean kinship of S_k above which gains were seen to vanish (arXiv 2410.12613, section 4): for pcc and cosine."""

WORDS = {
    "average": "the best average",
    "normalised": "the best normalised average",
    "worst": "the score of the best model's worst task",
}
"""What each objective maximises."""

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Stop:
    """The rules that end a run; the first that holds gives the reason. A rule set to null is off."""

    generations: Positive | None
    evaluations: Positive | None
    """Of founders and offspring together."""
    hours: Annotated[float, Field(gt=0)] | None
    """Of merging, measuring and evaluating, over all starts of the run."""
    unchanged: bool
    """Stop when a generation left S_k as it was."""
    kinship: float | Literal["auto"] | None
    """`auto`: 0.9 for a similarity; off for a distance, which has no general scale."""
    gain: Annotated[float, Field(ge=0)] | None
    """The least growth of the best average, in points over `patience` generations, that is worth going on for."""
    patience: Positive
    samples: Positive | None = None
    """Asked of founders and offspring together."""

    def threshold(self, kinship: KinshipTable) -> float | None:
        """Return the mean kinship of S_k past which the population counts as saturated; None: no such rule."""
        if self.kinship == "auto":
            return SATURATION if kinship.larger_is_closer else None
        return self.kinship

    def reason(self, population: Population, kinship: KinshipTable, spent: Spent, k: int | None) -> str | None:
        """Why the run should end now, before another generation; None to go on.

        `k` is the strategy's; rules about S_k do not apply to a strategy without one.
        """
        return next(self._reasons(population, kinship, spent, k), None)

    def _reasons(self, population: Population, kinship: KinshipTable, spent: Spent, k: int | None) -> Iterator[str]:
        generation = population.generation
        if k is not None and generation > 0:
            yield from self._saturated(population, kinship, k)
            yield from self._stalled(population, k)
        if self.generations is not None and generation >= self.generations:
            yield f"the budget of {self.generations} generation{'s'[: self.generations > 1]} is spent"
        if self.evaluations is not None and spent.evaluations >= self.evaluations:
            yield f"the budget of {self.evaluations} evaluations is spent"
        if self.samples is not None and spent.samples >= self.samples:
            yield f"the budget of {self.samples} samples is spent"
        if self.hours is not None and spent.hours >= self.hours:
            yield f"the budget of {self.hours:g} hours is spent"

    def _saturated(self, population: Population, kinship: KinshipTable, k: int) -> Iterator[str]:
        threshold = self.threshold(kinship)
        if threshold is None or population.generation < self.patience:
            return
        recent = range(population.generation - self.patience + 1, population.generation + 1)
        means = [kinship.mean(_top(population.until(generation), k)) for generation in recent]
        if all(kinship.closer(mean, threshold) for mean in means):
            side = "above" if kinship.larger_is_closer else "below"
            yield (
                f"the population is saturated: mean kinship of the {k} best {side} {threshold:g} for "
                f"{self.patience} generation{'s'[: self.patience > 1]} (now {means[-1]:.3f})"
            )

    def _stalled(self, population: Population, k: int) -> Iterator[str]:
        generation = population.generation
        if self.unchanged and _top(population, k) == _top(population.until(generation - 1), k):
            yield f"the {k} best models did not change"
        if self.gain is not None and generation >= self.patience:
            now, then = population.best(1)[0], population.until(generation - self.patience).best(1)[0]
            grown = population.value(now) - population.value(then)
            if grown <= self.gain:
                yield (
                    f"no gain: {WORDS[population.objective]} grew by {grown:.2f} in the last "
                    f"{self.patience} generation{'s'[: self.patience > 1]}"
                )


def _top(population: Population, k: int) -> list[str]:
    return [model.name for model in population.best(k)]
