"""Grams: what one pass over the checkpoints leaves behind, and every figure of kinship follows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from src.kinship.kinds import KINDS
from src.runtime.errors import UserError, printable
from src.runtime.files import check_regular, replacing

Products = tuple[np.ndarray, np.ndarray]
"""Gram matrices [T, rows, rows] of the base (row 0) and the deltas, and sums [T, rows]; of one tensor, without T."""
_FORMAT = 1
_STORED = {  # the arrays of a file besides its format: the dtype (U, text of any length) and number of dimensions
    **{"names": ("U", 1), "tensors": ("U", 1), "kinds": ("U", 1), "layers": ("i8", 1)},
    **{"count": ("i8", 1), "gram": ("f8", 3), "sums": ("f8", 2)},
}


@dataclass(frozen=True)
class Tensor:
    """A compared tensor: its kind (one of kinds.KINDS), decoder layer (None outside the layers) and elements."""

    name: str
    kind: str
    layer: int | None
    count: int


@dataclass(frozen=True, eq=False)
class Grams:
    """Inner products of the base and of every model's delta (its weights minus the base's), tensor by tensor.

    Row and column 0 belong to the base's own weights, row 1 + i to the delta of `names[i]`. NaN stands for what was
    never measured (see `measure`). Treat the arrays as read-only.

    Attributes:
        names: the n models, without the base.
        tensors: the T tensors, in the order of the arrays.
        gram: float64 [T, n + 1, n + 1], symmetric.
        sums: float64 [T, n + 1], the sum of each one's elements.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    gram: np.ndarray
    sums: np.ndarray

    def __post_init__(self) -> None:
        rows = len(self.names) + 1
        wanted = (len(self.tensors), rows, rows)
        if self.gram.shape != wanted or self.sums.shape != wanted[:2]:
            raise ValueError(f"gram [T, n + 1, n + 1] should be {wanted}, is {self.gram.shape}; sums {self.sums.shape}")

    @property
    def count(self) -> np.ndarray:
        """int64 [T], the elements of each tensor."""
        return np.array([tensor.count for tensor in self.tensors], dtype=np.int64)

    def total(self) -> Totals:
        """Return the sum over the tensors, computed once."""
        return self._total

    @cached_property
    def _total(self) -> Totals:
        return Totals(self.gram.sum(axis=0), self.sums.sum(axis=0), int(self.count.sum()))

    def select(self, *, layer: int | None = None, kind: str | None = None) -> Grams:
        """Select the tensors of a decoder layer, of a kind, or of both, for the same models.

        Raises UserError if there is no such tensor.
        """
        keep = [i for i, t in enumerate(self.tensors) if layer in (None, t.layer) and kind in (None, t.kind)]
        if not keep:
            what = " and ".join(f"{k} {v}" for k, v in (("layer", layer), ("kind", kind)) if v is not None)
            raise UserError(f"no tensor of {what}; there are the layers {self.layers()} and the kinds {self.kinds()}")
        return replace(self, tensors=tuple(self.tensors[i] for i in keep), gram=self.gram[keep], sums=self.sums[keep])

    def layers(self) -> list[int]:
        """Return the decoder layers that occur, in order."""
        return sorted({tensor.layer for tensor in self.tensors if tensor.layer is not None})

    def kinds(self) -> list[str]:
        """Return the kinds that occur, in the order of their first tensor."""
        return list(dict.fromkeys(tensor.kind for tensor in self.tensors))

    def of(self, names: Sequence[str]) -> Grams:
        """Select some of the models, in the order given; UserError for a name that was not measured."""
        if unknown := [name for name in names if name not in self.names]:
            raise UserError(f"no model {unknown[0]!r} was measured; there are {', '.join(self.names)}")
        rows = [0, *(1 + self.names.index(name) for name in names)]
        return replace(self, names=tuple(names), gram=self.gram[:, rows][:, :, rows], sums=self.sums[:, rows])

    def save(self, path: str | Path) -> None:
        """Write one .npz file, so that a reader finds all of it or none."""
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            self.write(file)

    def write(self, file: IO[bytes]) -> None:
        """Write the content of an .npz file."""
        arrays = {
            "format": np.array(_FORMAT),
            "names": np.array(self.names, dtype=np.str_),
            "tensors": np.array([tensor.name for tensor in self.tensors], dtype=np.str_),
            "kinds": np.array([tensor.kind for tensor in self.tensors], dtype=np.str_),
            "layers": np.array([-1 if t.layer is None else t.layer for t in self.tensors], dtype=np.int64),
            "count": self.count,
            "gram": self.gram,
            "sums": self.sums,
        }
        np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Grams:
        """Read what `save` wrote; FileNotFoundError if it is not there, UserError if it is something else."""
        path = Path(path)
        try:
            check_regular(path)
            with path.open("rb") as file:
                return cls.read(file)
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # of zipfile, its decompressors or numpy's reader of headers, whatever the damage is
            why = printable(str(error))[:200]
            raise UserError(f"{path}: no stored kinship ({why}); remove it, and it is measured again") from None

    @classmethod
    def read(cls, file: IO[bytes]) -> Grams:
        """Read what `write` wrote; of anything else, whatever numpy and zipfile raise, or a ValueError."""
        arrays = _arrays(file)
        layers = [None if layer < 0 else layer for layer in arrays["layers"].tolist()]
        columns = (arrays["tensors"].tolist(), arrays["kinds"].tolist(), layers, arrays["count"].tolist())
        names, gram, sums = tuple(arrays["names"].tolist()), arrays["gram"], arrays["sums"]
        grams = cls(names, tuple(Tensor(*row) for row in zip(*columns, strict=True)), gram, sums)
        if len(set(names)) < len(names) or not all(map(str.isprintable, (*names, *columns[0]))):
            raise ValueError("names that nothing can have")
        if not {*columns[1]} <= {*KINDS} or not (arrays["count"] > 0).all():
            raise ValueError("kinds or counts of tensors that cannot be")
        infinite = np.isinf(gram).any() or np.isinf(sums).any()
        if infinite or not np.array_equal(gram, gram.transpose(0, 2, 1), equal_nan=True):
            raise ValueError("inner products that cannot be")
        return grams


def _arrays(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Read the arrays of a file; ValueError where their dtypes or dimensions are not what they should be."""
    with np.load(file, allow_pickle=False) as stored:
        if any(member.compress_type for member in stored.zip.infolist()):  # as if to unpack more than a disk can hold
            raise ValueError("compressed")
        if (version := int(stored["format"])) != _FORMAT:
            raise ValueError(f"kinship of format {version}, expected {_FORMAT}")
        arrays = {name: stored[name] for name in _STORED}
    for name, (dtype, dimensions) in _STORED.items():
        found = arrays[name]
        if not found.dtype.str[1:].startswith(dtype) or found.ndim != dimensions:
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}")
    return arrays


@dataclass(frozen=True, eq=False)
class Totals:
    """Gram matrix [n + 1, n + 1] and sums [n + 1] over `count` elements: all that a metric needs."""

    gram: np.ndarray
    sums: np.ndarray
    count: int
