"""What is learned from: the samples that steer the search, as token sequences with a target, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.evaluation.tasks import Request, TaskRequests, attribute_errors
from src.runtime.errors import UserError
from src.strategy.recipe_gradient import Loss

UNLABELLED = ("agreement", "entropy")
Targets = Mapping[tuple[str, int], np.ndarray]
"""Of questions, the probabilities of their choices."""
AT_ONCE = 16
"""Samples that go through the model together for their derivatives."""
KEPT_AT_ONCE = 64
"""Samples that go through the model together, forwards only, unless settings say otherwise."""
Tokens = list[tuple[list[int], list[int]]]
"""Contexts and continuations."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One document of a task.

    Attributes:
        task: lm-eval's name of the task.
        document: its number.
        requests: lm-eval's log-likelihood requests, one a choice, or one alone: the target.
        lengths: float64 [choices], what their log-likelihoods are divided by under the task's metric.
        target: float64 [choices], the probability that each should have; None: what it should be is not known.
    """

    task: str
    document: int
    requests: tuple[Request, ...]
    lengths: np.ndarray
    target: np.ndarray | None


def samples(evaluator: Evaluator, loss: Loss, targets: Targets | None = None) -> tuple[list[Sample], dict[str, float]]:
    """Return the samples of an evaluator, and what each of its tasks counts; the weights sum to 1.

    Args:
        evaluator: of what steers the search.
        loss: what is to be learned of them: of `target` a sample keeps its right answer only; of what needs no labels
            those that have no choices are left out, and so are their tasks.
        targets: for `agreement`, what takes the place of the labels; samples that it lacks are left out too.

    Raises:
        UserError: a task that there is no gradient for, or no sample at all.
    """
    found: list[Sample] = []
    weights: dict[str, float] = {}
    for requests, metric, weight in evaluator.asked():
        name = requests.leaf.task_name
        with attribute_errors(name, "nothing can be learned from it"):
            labelled = list(_labelled(requests, metric))
        if loss in UNLABELLED:
            labelled = [one for one in labelled if len(one.requests) > 1]
        if loss == "entropy":
            labelled = [replace(one, target=None) for one in labelled]
        elif targets is not None:
            labelled = [
                replace(one, target=targets[name, one.document]) for one in labelled if (name, one.document) in targets
            ]
        if labelled:
            found += map(_right, labelled) if loss == "target" else labelled
            weights[name] = weight
    if not found:
        raise UserError(
            f"strategy.objective_loss={loss} learns from questions with several choices, and no task of evaluate.tasks "
            "has choices of which its metric takes the likeliest; take strategy.objective_loss=target"
        )
    total = sum(weights.values())
    return found, {name: weight / total for name, weight in weights.items()}


def choices(evaluator: Evaluator) -> list[Sample]:
    """Return the samples that have choices of which their metric takes the likeliest."""
    asked = ((requests, metric) for requests, metric, _ in evaluator.asked() if requests.choices(metric) is not None)
    return [one for requests, metric in asked for one in _labelled(requests, metric)]


def _labelled(requests: TaskRequests, metric: str) -> Iterator[Sample]:
    leaf, kind = requests.leaf, requests.leaf.OUTPUT_TYPE
    choices = requests.choices(metric)
    if choices is None and kind == "multiple_choice":
        raise UserError(
            f"task {leaf.task_name}: strategy.name=recipe_gradient learns which of several choices is the right one, "
            f"as acc, acc_norm or acc_bytes judge it, and its metric is {metric}, or its samples have no single right "
            "choice; leave it out, or choose another metric or strategy"
        )
    for place, (number, document, asked) in enumerate(requests.documents()):
        if choices is not None:
            lengths = choices.lengths[place]
            right = np.arange(len(lengths)) == choices.gold[place]
            yield Sample(leaf.task_name, number, tuple(asked[: len(lengths)]), lengths, right.astype(float))
        else:
            yield Sample(leaf.task_name, number, (_told(leaf, kind, document, asked[0]),), np.ones(1), np.ones(1))


def _right(sample: Sample) -> Sample:
    """Return the sample with its right answer alone."""
    if len(sample.requests) == 1 or sample.target is None:
        return sample
    right = sample.requests[int(sample.target.argmax())]
    return replace(sample, requests=(right,), lengths=np.ones(1), target=np.ones(1))


def _told(leaf: Any, kind: str, document: Any, asked: Request) -> Request:
    """Return the request for the likelihood of what a model should say."""
    if kind == "loglikelihood":
        return asked
    if kind == "loglikelihood_rolling":
        context, said = "", asked.args[0]
    else:
        context, said = asked.args[0], leaf.doc_to_target(document)
        said = said[0] if isinstance(said, list | tuple) and said else said
        if not isinstance(said, str) or not said:
            raise ValueError(f"sample {asked.doc_id} has {str(said)[:40]!r} for a target; expected a text")
        said = said if said[:1].isspace() else f"{leaf.config.target_delimiter}{said}"
    return Request("loglikelihood", asked.doc, (context, said), 0)


@dataclass(frozen=True, eq=False)
class Division:
    """Samples to learn from and samples kept back, by task; the weights of tasks sum to 1."""

    learned: Mapping[str, Sequence[Sample]]
    kept: Mapping[str, Sequence[Sample]]
    weights: Mapping[str, float]

    @classmethod
    def of(
        cls, found: Sequence[Sample], weights: Mapping[str, float], *, share: float, most: int | None, seed: int
    ) -> Division:
        """Divide samples by lot, task by task, so that each side has at least one of each task.

        Args:
            found: the samples.
            weights: of their tasks.
            share: of each task's samples, what is kept back.
            most: of each task's samples, how many are used at all; None: all.
            seed: of the lot.

        Raises:
            UserError: a task of one sample.
        """
        learned, kept = {}, {}
        for name in weights:
            mine = [one for one in found if one.task == name]
            if len(mine) < 2:
                raise UserError(f"task {name} has {len(mine)} sample that steers the search; learning needs 2 at least")
            order = np.random.default_rng([seed, *name.encode()]).permutation(len(mine))[:most]
            cut = min(max(round(share * len(order)), 1), len(order) - 1)
            kept[name] = [mine[place] for place in order[:cut]]
            learned[name] = [mine[place] for place in order[cut:]]
        return cls(learned, kept, weights)

    @property
    def kept_count(self) -> int:
        """How many samples are kept back."""
        return sum(map(len, self.kept.values()))

    def kept_back_loss(self, ask: Callable[[list[Sequence[Sample]]], list[list[float]]], at_once: int | None) -> float:
        """Return the loss on the samples that are kept back, in the mean over tasks by their weights.

        Args:
            ask: returns the losses of the samples of every part.
            at_once: samples of a part, at most.
        """
        parts = [(name, part) for name in self.weights for part in in_parts(self.kept[name], at_once or KEPT_AT_ONCE)]
        found: dict[str, list[float]] = {name: [] for name in self.weights}
        for (name, _), some in zip(parts, ask([part for _, part in parts]), strict=True):
            found[name] += some
        return sum(weight * float(np.mean(found[name])) for name, weight in self.weights.items())

    def batches(self, size: int, seed: int) -> Iterator[list[Sample]]:
        """Yield batches without end. A task has its weight's share of the samples; each is as often drawn as others."""
        draw = np.random.default_rng(seed)
        names = list(self.weights)
        bounds = np.cumsum([self.weights[name] for name in names])
        left: dict[str, list[Sample]] = {name: [] for name in names}
        while True:
            at = (np.arange(size) + draw.random()) / size * bounds[-1]
            batch = []
            for place in np.searchsorted(bounds, at, side="right").clip(max=len(names) - 1).tolist():
                name = names[place]
                if not left[name]:
                    left[name] = [self.learned[name][one] for one in draw.permutation(len(self.learned[name]))]
                batch.append(left[name].pop())
            yield batch


def in_parts(asked: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Return a sequence in parts of this size, the last of which may be smaller."""
    return [asked[first : first + size] for first in range(0, len(asked), size)]


def by_question(asked: Iterable[Sample]) -> dict[tuple[str, int], Sample]:
    """Return samples by lm-eval task and document."""
    return {(one.task, one.document): one for one in asked}


def losses(model: ReusableModel, asked: Sequence[Sample]) -> torch.Tensor:
    """Return float [samples], with gradients: cross-entropy over the choices, or of a lone target by token.

    Choices are weighed as the metric does: the softmax is over log-likelihood / length. Cross-entropy is measured from
    the least that it can be (the target's own entropy), so that it is 0 where a model does as it should. Without a
    target it is the entropy of what the model chooses (AdaMerging, arXiv 2310.02575, eq. 5): 0 where that is certain.
    """
    encoded: Tokens = model.encode([request for one in asked for request in one.requests])
    batch, places = model.batch(encoded)
    said = model.log_likelihoods(batch)
    order = torch.empty(len(places), dtype=torch.long, device=said.device)
    order[torch.tensor(places, device=said.device)] = torch.arange(len(places), device=said.device)
    said = said[order]
    found, first = [], 0
    for one in asked:
        values = said[first : first + len(one.requests)]
        if len(one.requests) == 1:
            found.append(-values[0] / len(encoded[first][1]))
        else:
            chosen = torch.log_softmax(values / values.new_tensor(one.lengths), 0)
            if one.target is None:
                found.append(-(chosen.exp() * chosen).sum())
            else:
                target = values.new_tensor(one.target)
                found.append(-(target * chosen).sum() - torch.special.entr(target).sum())
        first += len(one.requests)
    return torch.stack(found)


def loss_values(model: ReusableModel, asked: Sequence[Sample]) -> list[float]:
    """Return the samples' losses as numbers."""
    with torch.no_grad():
        values: list[float] = losses(model, asked).double().tolist()
    return values
