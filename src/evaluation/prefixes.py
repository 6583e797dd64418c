"""Texts that begin alike: what they share goes through the model once, and its keys and values serve them all.

A batch goes through the model in up to three passes: what its texts begin with (a description, few-shot examples),
their contexts, and their ends. All texts of a batch are cut at the same columns, and a pass has a row for each
beginning that differs. So no pass but the last is padded, and that one on the right, as it is without sharing: there is
no mask, and there are no positions but the model's own. That is right whatever these are (rotary, learned, ALiBi), and
for windows that slide, wherever what a model keeps of a text is keys and values and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

PASS = 64
"""Tokens that take as long as what a pass takes besides, such as reading all weights; 30 of SmolLM2-135M on one thread,
and more on a GPU. A cut has to save more."""

Text = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Texts that are a batch."""

    rows: tuple[tuple[Text, ...], ...]
    """In lexicographic order: a text, and those that it begins with, which need no row of their own."""
    cuts: tuple[int, ...]
    """Columns at which another pass begins, ascending; none where too little is shared."""
    tokens: int
    """How many go through the model, padding included."""

    @property
    def texts(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows))

    @property
    def width(self) -> int:
        """Tokens of the longest text."""
        return max(len(row[0]) for row in self.rows)


@dataclass(frozen=True)
class _Group:
    """The rows of a document that have something in common, by their numbers in lexicographic order."""

    rows: tuple[int, ...]
    shared: int
    """Columns in which they are the same; of a single row, all."""
    before: int
    """Columns that the first of them shares with the row before it."""
    width: int
    """Columns of the longest."""

    @property
    def order(self) -> tuple[int, int]:
        """What is to be close for two of them to be a batch; the longest first."""
        return -self.shared, -self.width


def divide(texts: Mapping[Text, Hashable], size: int) -> list[Part]:
    """Return texts in batches, those together that have much in common; the longest batches first.

    The rows of a document are together, beside those of documents with the same examples before them; what has nothing
    in common is together by its length. All follows from the arguments alone. None where nothing is shared.

    Args:
        texts: and the document that each is of.
        size: rows of a batch.
    """
    division = _Division(texts)
    batches: list[list[_Group]] = []
    for number, family in enumerate(families := division.families(size)):
        alone = number and len(family) == 1 == len(families[number - 1])
        fresh = not batches or not (alone or division.pays(batches[-1], family, size))
        for group in family:
            if fresh or sum(len(one.rows) for one in batches[-1]) + len(group.rows) > size:
                batches.append([])
            batches[-1].append(group)
            fresh = False
    parts = sorted(map(division.part, batches), key=lambda part: -part.width)
    gained = sum(part.tokens for part in parts) < padded([len(text) for text in texts], size)
    return parts if gained and any(part.cuts or len(part.rows) < part.texts for part in parts) else []


def padded(lengths: Sequence[int], size: int) -> int:
    """Return how many tokens go through the model where nothing is shared, padding included."""
    ordered = sorted(lengths, reverse=True)
    return sum(ordered[first] * len(ordered[first : first + size]) for first in range(0, len(ordered), size))


class _Division:
    def __init__(self, texts: Mapping[Text, Hashable]) -> None:
        arrays = {text: np.array(text, dtype=">u4") for text in texts}  # of which the bytes are in the numbers' order
        self._rows: list[tuple[Text, ...]] = []
        for text in sorted(texts, key=lambda text: arrays[text].tobytes()):
            if self._rows and text[: len(self._rows[-1][0])] == self._rows[-1][0]:
                self._rows[-1] = (text, *self._rows[-1])
            else:
                self._rows.append((text,))
        self._arrays = [arrays[row[0]] for row in self._rows]
        self._documents = [texts[row[0]] for row in self._rows]

    def families(self, size: int) -> list[list[_Group]]:
        """Return the documents that begin alike, those with the longest first, in families and among them.

        Neighbours are one family where what they share is no shorter than what follows it.
        """
        found: list[list[_Group]] = []
        last: _Group | None = None
        for group in self._groups(size):
            if last is not None and 2 * group.before >= min(group.shared, last.shared):
                found[-1].append(group)
            else:
                found.append([group])
            last = group
        ordered = [sorted(family, key=lambda group: group.order) for family in found]
        return sorted(ordered, key=lambda family: family[0].order)

    def _groups(self, size: int) -> Iterator[_Group]:
        """Yield the rows of each document, but apart those that share less than a quarter of their columns."""
        common = [self._shared(row - 1, row) if row else 0 for row in range(len(self._rows))]
        lengths = [len(array) for array in self._arrays]
        together = [
            document == other and 4 * shared >= length
            for document, other, shared, length in zip(
                self._documents[1:], self._documents, common[1:], lengths[1:], strict=False
            )
        ]
        first = 0
        for row in range(1, len(lengths) + 1):
            if row == len(lengths) or row - first == size or not together[row - 1]:
                shared = min(common[first + 1 : row], default=lengths[first])
                yield _Group(tuple(range(first, row)), shared, common[first], max(lengths[first:row]))
                first = row

    def pays(self, batch: Sequence[_Group], family: Sequence[_Group], size: int) -> bool:
        """Return whether a batch, if it goes on with a family's first documents, takes less time than both apart."""
        room = size - sum(len(group.rows) for group in batch)
        taken = []
        for group in family:
            room -= len(group.rows)
            if room < 0:
                break
            taken.append(group)
        return bool(taken) and _work(self.part([*batch, *taken])) <= _work(self.part(batch)) + _work(self.part(taken))

    def part(self, groups: Sequence[_Group]) -> Part:
        """Return documents as a batch, cut where that takes the least time."""
        rows = sorted(row for group in groups for row in group.rows)
        lengths = np.array([len(self._arrays[row]) for row in rows])
        shared = np.array([self._shared(one, other) for one, other in pairwise(rows)], dtype=int)
        return Part(tuple(self._rows[row] for row in rows), *_cut(lengths, shared))

    def _shared(self, one: int, other: int) -> int:
        width = min(len(self._arrays[one]), len(self._arrays[other]))
        differ = self._arrays[one][:width] != self._arrays[other][:width]
        return int(differ.argmax()) if differ.any() else width


def _work(part: Part) -> int:
    return part.tokens + PASS * (1 + len(part.cuts))


def _cut(lengths: np.ndarray, shared: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Return where to cut texts, and how many tokens then go through the model.

    Args:
        lengths: int [rows].
        shared: int [rows - 1], columns that each shares with the next in lexicographic order.
    """
    rows, width = len(lengths), lengths.max()
    columns = np.unique(np.minimum(shared, lengths.min() - 1))
    columns = columns[columns > 0]  # every text goes on behind the last cut
    distinct = 1 + (shared < columns[:, None]).sum(1)  # beginnings of that many columns
    first, second = columns[:, None], columns[None, :]
    twice = (
        distinct[:, None] * first + distinct[None, :] * (second - first) + rows * (width - second)
    )  # [first, second]
    tokens = np.where(first <= second, twice, rows * width)
    works = tokens + PASS * (2 + (first < second))
    if works.size and works.min() < rows * width + PASS:
        place = np.unravel_index(works.argmin(), works.shape)
        return tuple(np.unique(columns[list(place)]).tolist()), int(tokens[place])
    return (), int(rows * width)


Pass = Callable[[torch.Tensor, DynamicCache, torch.Tensor], torch.Tensor]
"""Of int64 [rows, columns] tokens that go on from what a cache has, the logits [rows, n, vocabulary] at int64 [n] of
the columns; the cache has the tokens too, then."""


def check(config: Any) -> None:
    """Refuse a model of which it is known that it answers otherwise where a text comes in several passes.

    Raises:
        NotImplementedError: saying why.
    """
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if strange := sorted(kind.__name__ for kind in kinds - {DynamicLayer, DynamicSlidingWindowLayer}):
        raise NotImplementedError(f"it keeps more of a text than keys and values ({', '.join(strange)})")
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, Mapping) and (kind := rope.get("rope_type")) in {"dynamic", "longrope"}:
            raise NotImplementedError(f"its positions depend on a text's length (rope_type: {kind})")


def tolerance(dtype: torch.dtype) -> float:
    """Return by how much two log-likelihoods may differ for their rounding, a token."""
    return max(32 * torch.finfo(dtype).eps, 1e-3)


def size(batch: torch.Tensor, cuts: Sequence[int]) -> int:
    """Return how many tokens of int64 [texts, width] go through the model, padding included."""
    return batch.numel() if not cuts else sum(found.numel() for _, found, *_ in _passes(batch, cuts))


def logits(
    model: Pass,
    cache: DynamicCache,
    batch: torch.Tensor,
    cuts: Sequence[int],
    rows: torch.Tensor,
    columns: torch.Tensor,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the logits of a batch that is cut, pass by pass: int64 [m], which of the n they are, and [m, vocabulary].

    Args:
        model: the model.
        cache: an empty one of the model's; it has the whole batch in the end.
        batch: int64 [texts, width], padded on the right; texts that begin alike are neighbours.
        cuts: where another pass begins.
        rows, columns: int64 [n], the places in the batch whose logits are wanted.

    Raises:
        NotImplementedError: the model does not use the cache.
    """
    before = torch.zeros(0, dtype=torch.long)
    for first, tokens, row_of, from_row in _passes(batch, cuts):
        if first:
            cache.batch_select_indices(before[from_row])  # to each text what it begins with
        before, last = row_of, tokens.shape[1] - 1
        wanted = ((first <= columns) & (columns <= first + last)).nonzero()[:, 0]
        needed, place = torch.unique(columns[wanted] - first, return_inverse=True)
        found = model(tokens, cache, needed if len(needed) else torch.tensor([last]))
        if cache.get_seq_length() != first + last + 1:
            raise NotImplementedError("it does not take a cache of keys and values")
        found = found[row_of[rows[wanted]].to(found.device), place.to(found.device)]  # all of them may be large
        if len(wanted):
            yield wanted, found


def nbytes(cache: DynamicCache) -> int:
    """Return what keys and values take."""
    kept = (getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in kept if tensor is not None)


def _passes(batch: torch.Tensor, cuts: Sequence[int]) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield of each pass the first column, the tokens, int64 [texts] the row of each, and a text of each row."""
    for first, last in pairwise((0, *cuts, batch.shape[1])):
        texts, row_of, count = torch.unique_consecutive(batch[:, :last], return_inverse=True, return_counts=True, dim=0)
        yield first, texts[:, first:], row_of, count.cumsum(0) - count
