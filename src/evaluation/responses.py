"""What one model answered, by sample: made from an evaluation, kept beside its scores, read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from src.evaluation.base import Evaluation
from src.surrogate.questions import Answers, Questions

WHOLE = -1
"""The document of a question that stands for a whole task, whose score is no mean over its samples."""


@dataclass(frozen=True)
class Block:
    """The answers to an lm-eval task within a task of the configuration."""

    name: str
    """Of the lm-eval task."""
    share: float
    """What it counts in the score of the configuration's task; they sum to 1."""
    documents: Sequence[int]
    values: Sequence[np.ndarray]
    """[documents], the log-likelihoods of the choices, or the score alone."""
    gold: Sequence[int]
    """[documents], 0 where there is nothing to choose."""


def whole(name: str, share: float, score: float) -> Block:
    """Return the score of an lm-eval task, 0 to 1 if it is a share, as its only answer."""
    return Block(name, share, (WHOLE,), (np.array([score]),), (0,))


def assemble(tasks: Mapping[str, Sequence[Block]]) -> Answers:
    """Return the answers to all tasks of the configuration, in its order."""
    blocks = [(task, block) for task, found in enumerate(tasks.values()) for block in found]
    counts = np.array([len(values) for _, block in blocks for values in block.values], dtype=np.int64)
    sizes = [len(block.documents) for _, block in blocks]
    questions = Questions(
        tasks=tuple(tasks),
        task=np.repeat([task for task, _ in blocks], sizes),
        weight=np.repeat([block.share / size for (_, block), size in zip(blocks, sizes, strict=True)], sizes),
        first=np.cumsum(counts) - counts,
        choices=counts,
        gold=np.array([gold for _, block in blocks for gold in block.gold], dtype=np.int64),
        ids=tuple((block.name, document) for _, block in blocks for document in block.documents),
    )
    return Answers(questions, np.concatenate([values for _, block in blocks for values in block.values]))


def from_samples(evaluation: Evaluation) -> Answers:
    """Return the answers of an evaluation that tells no more than the scores of samples, or of tasks.

    The samples stand for a task if their mean is its score, in points or as a share (then they are taken as shares).
    """
    tasks = {}
    for task, score in evaluation.scores.items():
        samples = evaluation.samples.get(task, {})
        values = [value for value in samples.values() if math.isfinite(value)]
        mean = fmean(values) if values and len(values) == len(samples) else math.nan
        scale = next((scale for scale in (100.0, 1.0) if math.isclose(scale * mean, score, abs_tol=1e-9)), None)
        if scale is None:
            tasks[task] = [whole(task, 1.0, score / 100)]
        else:
            found = [np.array([value * scale / 100]) for value in values]
            tasks[task] = [Block(task, 1.0, tuple(samples), found, [0] * len(found))]
    return assemble(tasks)


def judged(questions: Questions, values: np.ndarray) -> np.ndarray:
    """Return float [Q], what answers [A] without NaN make of each question: right (1) or wrong (0), or its score."""
    question = np.repeat(np.arange(len(questions.first)), questions.choices)
    largest = np.flatnonzero(values == np.maximum.reduceat(values, questions.first)[question])
    _, first = np.unique(question[largest], return_index=True)
    right = largest[first] - questions.first == questions.gold
    return np.where(questions.choices > 1, right, values[questions.first])


def scores_of(answers: Answers) -> dict[str, float]:
    """Return the score of every task, ×100, of a model that answered all of the questions."""
    asked = answers.questions
    points = 100 * judged(asked, answers.values.astype(float))
    sums = np.bincount(asked.task, asked.weight * points, minlength=len(asked.tasks))
    return dict(zip(asked.tasks, sums.tolist(), strict=True))


def agree(found: Mapping[str, float], recorded: Mapping[str, float]) -> bool:
    """Return whether scores that answers make, which are float32, are those that were recorded; to 1e-6 as shares."""
    return set(found) == set(recorded) and all(
        abs(score - found[task]) <= 1e-4 * max(1.0, abs(score) / 100) for task, score in recorded.items()
    )


def spread(answers: Answers, questions: Questions) -> Answers:
    """Return answers to some of the questions as answers to all, NaN where none was asked; ValueError for others."""
    if answers.questions is questions or answers.questions.equals(questions):
        return Answers(questions, answers.values)
    place = {asked: number for number, asked in enumerate(questions.ids)}
    mine = answers.questions
    try:
        where = np.array([place[asked] for asked in mine.ids], dtype=np.int64)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is none of the questions") from None
    if mine.tasks != questions.tasks or any(
        not np.array_equal(getattr(mine, name), getattr(questions, name)[where]) for name in ("task", "choices", "gold")
    ):
        raise ValueError("the questions have other choices")
    values = np.full(questions.answers, np.nan, dtype=np.float32)
    steps = np.arange(mine.answers) - np.repeat(mine.first, mine.choices)
    values[np.repeat(questions.first[where], mine.choices) + steps] = answers.values
    return Answers(questions, values)
