"""Log-likelihood requests in batches: which texts go through a model together, and where answers stand in them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from src.evaluation import prefixes
from src.evaluation.prefixes import Text

Encoded = Sequence[tuple[list[int], list[int]]]
"""Tokens of context and continuation, by request."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts that go through the model together, and where the continuations of the requests stand in them."""

    tokens: torch.Tensor
    """int64 [rows, width], padded on the right."""
    rows: torch.Tensor
    """int64 [n], the row of each of the n tokens that are scored."""
    columns: torch.Tensor
    """int64 [n], the column whose logits predict it."""
    targets: torch.Tensor
    """int64 [n], the token itself."""
    continuations: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Of each length L that occurs: int64 [m], which requests' continuations have it, and int64 [m, L], which of the n
    tokens they are."""
    cuts: tuple[int, ...] = ()
    """Columns before which what rows begin with alike goes through the model once; see `prefixes`."""

    @property
    def size(self) -> int:
        """Tokens that go through the model, padding included."""
        return prefixes.size(self.tokens, self.cuts)

    def texts(self) -> Iterator[tuple[int, Text]]:
        """Yield the number of each continuation, and the text whose last columns predict it."""
        for numbers, places in self.continuations:
            rows, ends = self.rows[places[:, -1]], self.columns[places[:, -1]] + 1
            for number, row, end in zip(numbers.tolist(), rows.tolist(), ends.tolist(), strict=True):
                yield number, tuple(self.tokens[row, :end].tolist())


@dataclass(frozen=True)
class Piece:
    """What is put to a model at a time."""

    kind: str
    """The method of lm-eval's models that answers it."""
    places: tuple[int, ...]
    """Which of the requests of this kind they are."""
    batch: Batch | None = None
    """For loglikelihood only; the others' batches are lm-eval's own."""


class Texts:
    """What requests put to a model. Requests that differ in their last token only are one text.

    Attributes:
        places: of each text, the requests.
    """

    def __init__(self, encoded: Encoded, longest: int) -> None:
        """Cut requests to a model's `longest` text, on the left."""
        self.places: dict[Text, list[int]] = {}
        self._encoded, self._longest = encoded, longest
        for place, (context, continuation) in enumerate(encoded):
            if not 0 < len(continuation) <= longest:
                raise ValueError(f"a continuation has {len(continuation)} tokens; the model takes 1 to {longest}")
            text = tuple([*context, *continuation][:-1][-longest:])
            self.places.setdefault(text, []).append(place)

    def pieces(self, size: int) -> list[Piece]:
        """Return all in batches of `size` rows, the longest texts first."""
        rows = [(text,) for text in sorted(self.places, key=lambda text: (-len(text), text))]
        return [self.piece(rows[first : first + size]) for first in range(0, len(rows), size)]

    def parts(self, documents: Sequence[Hashable], size: int) -> list[prefixes.Part]:
        """Return batches that share what their texts begin with; none where nothing is gained. See `prefixes.divide`.

        `documents` says which document a request is of.
        """
        return prefixes.divide({text: documents[places[0]] for text, places in self.places.items()}, size)

    def piece(self, rows: Sequence[tuple[Text, ...]], cuts: tuple[int, ...] = ()) -> Piece:
        """Return texts as one batch; a row is a text, and others that it begins with."""
        tokens = torch.zeros((len(rows), max(len(row[0]) for row in rows)), dtype=torch.long)
        at: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        starts: dict[int, list[tuple[int, int]]] = {}
        places: list[int] = []
        for number, row in enumerate(rows):
            tokens[number, : len(row[0])] = torch.tensor(row[0])
            for text in row:
                for place in self.places[text]:
                    continuation = self._encoded[place][1]
                    starts.setdefault(len(continuation), []).append((len(places), len(targets)))
                    at += [number] * len(continuation)
                    columns += range(len(text) - len(continuation), len(text))
                    targets += continuation
                    places.append(place)
        read = (torch.tensor(at), torch.tensor(columns), torch.tensor(targets))
        continuations = []
        for length, found in starts.items():
            which, first = torch.tensor(found).T
            continuations.append((which, first[:, None] + torch.arange(length)))
        return Piece("loglikelihood", tuple(places), Batch(tokens, *read, tuple(continuations), cuts))
