"""The choices of lm-eval's multiple-choice tasks, and the numbers of which its metric takes the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.api.task import Task as HarnessTask

_LENGTHS: dict[str, Callable[[str], float]] = {
    "acc": lambda choice: 1.0,
    "acc_norm": lambda choice: float(len(choice)),
    "acc_bytes": lambda choice: float(len(choice.encode())),
}
"""What the log-likelihood of a choice is divided by, for each metric that takes the likeliest choice."""
_NEGLIGIBLE = 100.0
"""A choice of probability 0 is taken to be e to the power of this less likely than the least likely other."""


@dataclass(frozen=True)
class Choices:
    """The choices of the documents of an lm-eval task, the same for every model."""

    gold: list[int]
    """[documents], the right one of each."""
    lengths: list[np.ndarray]
    """[documents] of float64 [choices], 2 or more: what their log-likelihoods are divided by."""

    def of(self, places: Sequence[int]) -> Choices:
        """Return the choices of some of the documents."""
        return Choices([self.gold[place] for place in places], [self.lengths[place] for place in places])


def choices_of(leaf: HarnessTask, documents: Sequence[Any], metric: str) -> Choices | None:
    """Return the choices of a task's documents; None unless its metric says whether the likeliest one is right.

    That leaves out metrics of other kinds, tasks that judge answers by code of their own, and documents with several
    right choices, none, or a single choice.
    """
    own = type(leaf).process_results is not ConfigurableTask.process_results or callable(
        leaf.get_config("process_results")
    )
    if own or leaf.OUTPUT_TYPE != "multiple_choice" or metric not in _LENGTHS or leaf.multiple_target:
        return None
    right: Callable[[Any], Any] = leaf.doc_to_text if leaf.multiple_input else leaf.doc_to_target
    found = Choices([], [])
    for document in documents:
        listed, gold = leaf.doc_to_choice(document), right(document)
        if isinstance(gold, str) and gold in listed:
            gold = listed.index(gold)
        lengths = np.array([_LENGTHS[metric](choice) for choice in listed])
        if not isinstance(gold, int | np.integer) or not 0 <= gold < len(listed):
            return None
        if len(listed) < 2 or not lengths.all():
            return None
        found.gold.append(int(gold))
        found.lengths.append(lengths)
    return found


def score_choices(choices: Choices, answers: Sequence[Sequence[tuple[float, bool]]]) -> list[np.ndarray]:
    """Return float32 [choices] for every document, of which the largest is the model's choice; the first of equals.

    The answers are lm-eval's, by document: the log-likelihood of each choice, and whether it is the greedy one. One
    that is NaN raises RuntimeError.
    """
    found = []
    for given, lengths in zip(answers, choices.lengths, strict=True):
        exact = np.array([likelihood for likelihood, _ in given[: len(lengths)]]) / lengths
        finite = np.isfinite(exact)
        if not finite.all():
            if np.isnan(exact).any():
                raise RuntimeError("the log-likelihood of an answer is NaN")
            exact = np.where(finite, exact, exact[finite].min(initial=0.0) - _NEGLIGIBLE)
        chosen, values = int(exact.argmax()), exact.astype(np.float32)
        if values.argmax() != chosen:  # rounded to a tie
            values[chosen] = np.nextafter(values.max(), np.float32(np.inf))
        found.append(values)
    return found
