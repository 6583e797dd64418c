"""How a model's answers make its scores, and one model's answers as a file. Needs numpy alone."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMAT = 1
"""Of the files of answers."""

_ARRAYS = ("task", "weight", "first", "choices", "gold")


@dataclass(frozen=True, eq=False)
class Questions:
    """What was asked, and how answers make scores.

    A question has choices, each with an answer (its log-likelihood), or one answer alone, its score (0 to 1). The
    answers of all questions stand side by side, A in number, in the order of the questions.

    Attributes:
        tasks: names of the T tasks.
        task: int [Q], the task of each question.
        weight: float64 [Q], 0 or more: what each question counts in its task's score; they sum to 1 over a task.
        first: int [Q], the place of each question's first answer.
        choices: int [Q], how many answers it has; 1 where the answer itself is the question's score.
        gold: int [Q], the right choice; 0 where there is none to choose.
        ids: of each question, the lm-eval task (a task of `tasks` may be a group of several) and the document.

    Raises:
        ValueError: from the constructor, for anything that does not fit together.
    """

    tasks: tuple[str, ...]
    task: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    choices: np.ndarray
    gold: np.ndarray
    ids: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.asarray(getattr(self, name))
            if array.shape != (len(self.ids),) or (name != "weight" and array.dtype.kind not in "iu" and array.size):
                kind = "numbers" if name == "weight" else "integers"
                raise ValueError(f"{name} [Q] should be {len(self.ids)} {kind}, is {array.dtype} {array.shape}")
            object.__setattr__(self, name, array.astype(float if name == "weight" else np.int64))
        self._check()

    def _check(self) -> None:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a task has its name twice: {', '.join(self.tasks)}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a document of a task is asked twice")
        if ((self.task < 0) | (self.task >= len(self.tasks))).any():
            raise ValueError(f"task should be 0 to {len(self.tasks) - 1}, is {self.task.min()} to {self.task.max()}")
        if (self.choices < 1).any() or ((self.gold < 0) | (self.gold >= self.choices)).any():
            raise ValueError("gold should be one of the choices, of which every question has 1 or more")
        if (self.first != np.cumsum(self.choices) - self.choices).any():
            raise ValueError("first should be the sum of the choices of the questions before")
        if not np.isfinite(self.weight).all() or (self.weight < 0).any():
            raise ValueError("weight should be 0 or more, and finite")
        sums = np.bincount(self.task, self.weight, minlength=len(self.tasks))
        if (np.abs(sums - 1) > 1e-6).any():
            wrong = int(np.abs(sums - 1).argmax())
            raise ValueError(f"weight should sum to 1 over each task, is {sums[wrong]:g} over {self.tasks[wrong]}")

    @property
    def answers(self) -> int:
        """The number A of answers."""
        return int(self.choices.sum())

    def equals(self, other: Questions) -> bool:
        """Return whether the same was asked and makes scores in the same way: answer by answer, it can be compared."""
        mine, theirs = (self.tasks, self.ids), (other.tasks, other.ids)
        return mine == theirs and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS)

    def centred(self, answers: np.ndarray) -> np.ndarray:
        """Return answers [..., A] with each question's mean over its choices taken out: only differences decide.

        An answer that stands alone stays; where one of a question's is NaN, all of that question become NaN.
        """
        if not len(self.first):
            return np.asarray(answers, dtype=float)
        sums = np.add.reduceat(np.asarray(answers, dtype=float), self.first, axis=-1)
        means = np.where((self.choices > 1) | np.isnan(sums), sums / self.choices, 0.0)
        return np.asarray(answers - np.repeat(means, self.choices, axis=-1), dtype=float)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model answered.

    Attributes:
        questions: what was asked of all models.
        values: float32 [A], log-likelihoods, or scores where an answer stands alone; NaN for the questions that this
            model was not asked (all answers of a question, or none).

    Raises:
        ValueError: from the constructor, for values that are no answers to these questions.
    """

    questions: Questions
    values: np.ndarray

    def __post_init__(self) -> None:
        values, wanted = np.asarray(self.values), (self.questions.answers,)
        if values.shape != wanted or values.dtype.kind not in "fiu":
            raise ValueError(f"values [A] should be numbers {wanted}, is {values.dtype} {values.shape}")
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if np.isinf(values).any():
            raise ValueError("an answer is infinite")
        lacking = np.isnan(values)
        asked = np.repeat(~lacking[self.questions.first], self.questions.choices)
        if (asked == lacking).any():
            raise ValueError("a question lacks the answers of some of its choices")
        object.__setattr__(self, "values", values)

    @property
    def known(self) -> np.ndarray:
        """Bool [A], the answers that are there."""
        return ~np.isnan(self.values)

    def save(self, path: Path, key: str = "") -> None:
        """Write them to a compressed .npz file; the same answers give the same bytes.

        Args:
            path: of the file, which is written in place: go through `runtime.files.replacing` where a reader may look.
            key: what identifies the model and what it was asked; it is kept with the answers.
        """
        names = list(dict.fromkeys(name for name, _ in self.questions.ids))
        place = {name: index for index, name in enumerate(names)}
        text = {"format": FORMAT, "key": key, "tasks": self.questions.tasks, "names": names}
        arrays = {name: getattr(self.questions, name) for name in _ARRAYS}
        arrays["text"] = np.frombuffer(json.dumps(text).encode(), dtype=np.uint8)
        arrays["ids"] = np.array([(place[name], document) for name, document in self.questions.ids], dtype=np.int64)
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays, values=self.values)

    @staticmethod
    def load(path: Path, key: str | None = None) -> Answers:
        """Read what `save` wrote; nothing that a file holds is executed.

        Args:
            path: of the file.
            key: that the file should have been saved with; None: any.

        Raises:
            ValueError: it is no file of answers, is torn or damaged, or was saved with another key.
            OSError: it cannot be read.
        """
        content = io.BytesIO(path.read_bytes())
        try:
            with np.load(content, allow_pickle=False) as file:
                text = json.loads(file["text"].tobytes())
                arrays, ids, values = {name: file[name] for name in _ARRAYS}, file["ids"].tolist(), file["values"]
            if text["format"] != FORMAT:
                raise ValueError(f"of format {text['format']!r}, not {FORMAT}")
            if key is not None and text["key"] != key:
                raise ValueError(f"of {text['key']!r}, not of {key!r}")
            named = tuple((str(text["names"][place]), document) for place, document in ids)
            return Answers(Questions(tasks=tuple(map(str, text["tasks"])), ids=named, **arrays), values)
        except Exception as error:  # of zipfile, its decompressors or numpy's reader of headers, whatever the damage is
            raise ValueError(f"{path}: not the answers that were looked for ({error})") from error
