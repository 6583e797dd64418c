"""Questions and answers: what is taken, what is refused, and what a file gives back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.surrogate.questions import Answers, Questions

QUESTIONS = Questions(
    tasks=("sums", "words"),
    task=np.array([0, 0, 1]),
    weight=np.array([0.25, 0.75, 1.0]),
    first=np.array([0, 2, 5]),
    choices=np.array([2, 3, 1]),
    gold=np.array([1, 2, 0]),
    ids=(("add", 4), ("subtract", 4), ("words", 0)),
)
VALUES = np.array([-1.0, -2.0, -3.5, -1.25, np.pi, 0.5])
PARTLY = np.array([-1.0, -2.0, np.nan, np.nan, np.nan, 0.5])


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    for values in (VALUES, PARTLY):
        Answers(QUESTIONS, values).save(tmp_path / "a.npz", "model 7")
        found = Answers.load(tmp_path / "a.npz", "model 7")
        assert found.questions.equals(QUESTIONS)
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, values.astype(np.float32))
        np.testing.assert_array_equal(found.known, ~np.isnan(values))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_the_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        Answers(QUESTIONS, VALUES).save(tmp_path / name, "k")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_key_is_refused(tmp_path: Path) -> None:
    Answers(QUESTIONS, VALUES).save(tmp_path / "a.npz", "model 7")
    assert Answers.load(tmp_path / "a.npz").known.all()
    with pytest.raises(ValueError, match="of 'model 7', not of 'model 8'"):
        Answers.load(tmp_path / "a.npz", "model 8")


def test_a_damaged_file_is_refused_wherever_it_is_cut_or_changed(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "damaged"
    Answers(QUESTIONS, VALUES).save(whole, "k")
    data = whole.read_bytes()
    wrong = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place])
        with pytest.raises(ValueError, match="not the answers"):
            Answers.load(path, "k")
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        try:
            found = Answers.load(path, "k")
        except ValueError:
            wrong += 1
            continue
        # A date or an attribute in the archive's directory is of no account: what is read is what was written.
        assert found.questions.equals(QUESTIONS)
        np.testing.assert_array_equal(found.values, VALUES.astype(np.float32))
    assert wrong > len(data) // 14


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Answers.load(tmp_path / "none")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", values=VALUES)
    np.savez(tmp_path / "pickle.npz", text=np.array({"format": 1}, dtype=object))
    for name in ("one.npy", "other.npz", "pickle.npz"):
        with pytest.raises(ValueError, match=name):
            Answers.load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": np.array([0, 0])}, "task .Q. should be 3 integers"),
        ({"task": np.array([0.0, 0.0, 1.0])}, "task .Q. should be 3 integers"),
        ({"task": np.array([0, 0, 2])}, "task should be 0 to 1, is 0 to 2"),
        ({"weight": np.array([0.25, 0.25, 1.0])}, "sum to 1 over each task, is 0.5 over sums"),
        ({"weight": np.array([-0.25, 1.25, 1.0])}, "0 or more"),
        ({"weight": np.array([np.nan, 1.0, 1.0])}, "finite"),
        ({"first": np.array([0, 3, 5])}, "first should be the sum"),
        ({"gold": np.array([2, 2, 0])}, "gold should be one of the choices"),
        ({"choices": np.array([2, 3, 0])}, "1 or more"),
        ({"tasks": ("sums", "sums")}, "its name twice"),
        ({"tasks": ("sums", "words", "idle")}, "is 0 over idle"),
        ({"ids": (("add", 4), ("add", 4), ("words", 0))}, "asked twice"),
    ],
)
def test_questions_that_do_not_fit_together_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(QUESTIONS, **change)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (VALUES[:-1], r"numbers \(6,\), is float64 \(5,\)"),
        (VALUES.astype(str), "should be numbers"),
        (np.where(np.arange(6) == 1, np.nan, VALUES), "lacks the answers of some"),
        (np.where(np.arange(6) == 4, np.nan, VALUES), "lacks the answers of some"),
        (np.where(np.arange(6) == 4, -np.inf, VALUES), "infinite"),
        (np.where(np.arange(6) == 4, 1e300, VALUES), "infinite"),
    ],
)
def test_answers_to_other_questions_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Answers(QUESTIONS, values)


def test_questions_equal_only_if_all_of_them_is_the_same() -> None:
    assert QUESTIONS.equals(replace(QUESTIONS, ids=tuple(QUESTIONS.ids)))
    assert not QUESTIONS.equals(replace(QUESTIONS, gold=np.array([0, 2, 0])))
    assert not QUESTIONS.equals(replace(QUESTIONS, ids=(("add", 3), ("subtract", 4), ("words", 0))))
    assert not QUESTIONS.equals(replace(QUESTIONS, tasks=("sums", "other")))


def test_centred_answers_keep_differences_and_what_stands_alone() -> None:
    centred = QUESTIONS.centred(np.stack([VALUES, VALUES + np.array([3, 3, 0, 0, 0, 0])]))
    np.testing.assert_allclose(centred[0], centred[1])
    assert abs(centred[0, :2].sum()) < 1e-12
    assert abs(centred[0, 2:5].sum()) < 1e-12
    assert centred[0, 5] == 0.5
    np.testing.assert_array_equal(np.isnan(QUESTIONS.centred(PARTLY)), np.isnan(PARTLY))


def test_reading_answers_does_not_wait_for_torch() -> None:
    script = "import sys, src.surrogate.questions; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False).returncode == 0
