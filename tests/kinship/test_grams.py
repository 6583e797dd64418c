"""Stored kinship: who may read it, and what is made of a file that is not what was stored."""

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.kinship import Grams, Tensor, kinship_matrix
from src.runtime.errors import UserError

SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    deltas = np.random.default_rng(0).standard_normal((4, 4, 9))
    tensors = [Tensor(f"model.layers.{i}.mlp.up_proj.weight", "mlp", i, 9) for i in range(3)]
    tensors.append(Tensor("model.norm.weight", "norms", None, 9))
    grams = Grams(("a", "b", "c"), tuple(tensors), deltas @ deltas.transpose(0, 2, 1), deltas.sum(axis=2))
    grams.save(tmp_path / "kinship.npz")
    return tmp_path / "kinship.npz"


def read(path: Path) -> Grams | None:
    """What is stored there; None after a complaint, which must be one printable line."""
    try:
        return Grams.load(path)
    except UserError as error:
        complaint = str(error)
    assert complaint.startswith(f"{path}: ")
    assert complaint.isprintable()
    assert len(complaint) < 500
    return None


def edited(content: bytes, chance: random.Random) -> bytes:
    """The same with some bytes cut off, removed, added or changed, here and there or where the format has its say."""
    marks = [i for i in range(len(content)) if content.startswith(SIGNATURES, i)] or [0]
    spoilt, at = bytearray(content), chance.randrange(len(content))
    how = chance.choice(["cut", "remove", "add", "change", "headers", "headers"])
    if how == "cut":
        del spoilt[at:]
    elif how == "remove":
        del spoilt[at : at + chance.randrange(60)]
    elif how == "add":
        spoilt[at:at] = chance.randbytes(chance.randrange(1, 20))
    else:
        start, room = (chance.choice(marks), 100) if how == "headers" else (0, len(spoilt))
        for _ in range(chance.choice([1, 1, 2, 8])):
            spoilt[min(len(spoilt) - 1, start + chance.randrange(room))] = chance.choice(
                [0, 255, chance.randrange(256)]
            )
    return bytes(spoilt)


def repacked(content: bytes, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with its members changed, and checksums that fit."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return made.getvalue()


def test_a_damaged_file_is_a_complaint_or_what_was_stored(stored: Path) -> None:
    whole, content, chance, complaints = Grams.load(stored), stored.read_bytes(), random.Random(0), 0
    for _ in range(4000):
        stored.write_bytes(edited(content, chance))
        found = read(stored)
        complaints += found is None
        if found is not None:
            assert (found.names, found.tensors) == (whole.names, whole.tensors)
            assert np.array_equal(found.gram, whole.gram)
            assert np.array_equal(found.sums, whole.sums)
    assert complaints > 3000


def test_an_edited_file_is_a_complaint_or_kinship(stored: Path) -> None:
    """With checksums that fit: dtypes, shapes and values that nobody stored."""
    content, chance, complaints = stored.read_bytes(), random.Random(1), 0
    for _ in range(1500):
        one = chance.choice(["format", "names", "tensors", "kinds", "layers", "count", "gram", "sums"])
        stored.write_bytes(repacked(content, lambda name, raw: edited(raw, chance) if name == f"{one}.npy" else raw))  # noqa: B023
        found = read(stored)
        complaints += found is None
        if found is not None:
            assert kinship_matrix(found, "euclidean").shape == (len(found.names), len(found.names))
    assert complaints > 1000


def replaced(**arrays: object) -> Callable[[bytes], bytes]:
    """Puts other arrays into the archive."""

    def member(name: str, raw: bytes) -> bytes:
        key = name.removesuffix(".npy")
        if key in arrays:
            made = io.BytesIO()
            np.save(made, np.array(arrays[key]))
            return made.getvalue()
        return raw

    return lambda content: repacked(content, member)


def plain_array(content: bytes) -> bytes:
    made = io.BytesIO()
    np.save(made, np.ones(3))
    return made.getvalue()


def endless(content: bytes) -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000000, 4, 4), }\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return repacked(content, lambda name, old: raw if name == "gram.npy" else old)


FOREIGN = {
    "one array": plain_array,
    "compressed": lambda content: repacked(content, lambda _, raw: raw, zipfile.ZIP_DEFLATED),
    "more than any memory": endless,
    "an unknown kind": replaced(kinds=["mlp", "mlp", "mlp", "soup"]),
    "a name twice": replaced(names=["a", "b", "a"]),
    "a name that colours the terminal": replaced(names=["a", "b", "\x1b[31mc"]),
    "one name for all": replaced(names="abc"),
    "numbers for names": replaced(names=[1, 2, 3]),
    "a tensor too few": replaced(tensors=["a", "b", "c"]),
    "no elements": replaced(count=[9, 9, 9, 0]),
    "whole numbers": replaced(gram=np.ones((4, 4, 4), dtype=np.int64)),
    "half precision": replaced(sums=np.ones((4, 4), dtype=np.float16)),
    "infinity": replaced(sums=np.full((4, 4), np.inf)),
    "a lopsided matrix": replaced(gram=np.arange(64.0).reshape(4, 4, 4)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file(what: str, stored: Path) -> None:
    stored.write_bytes(FOREIGN[what](stored.read_bytes()))
    with pytest.raises(UserError, match=r"kinship\.npz: no stored kinship .* remove it, and it is measured again"):
        Grams.load(stored)


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_no_file_at_all(what: str, tmp_path: Path) -> None:
    (os.mkfifo if what == "pipe" else os.mkdir)(tmp_path / "kinship.npz")
    with pytest.raises(UserError, match=rf"kinship\.npz is a {what}; expected a file"):
        Grams.load(tmp_path / "kinship.npz")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_it_as_the_umask_says(umask: int, mode: int, stored: Path) -> None:
    before = os.umask(umask)
    try:
        Grams.load(stored).save(stored)
    finally:
        os.umask(before)
    assert stored.stat().st_mode & 0o777 == mode
    assert [file.name for file in stored.parent.iterdir()] == ["kinship.npz"]
