"""Models that answer lm-eval's requests, piece by piece.

A `ReusableModel` is loaded once and takes the weights of one model after another. What does not depend on the weights
is done once: requests are tokenised, sorted and padded into batches, and the positions of their answers recorded. Any
process can answer any piece, with the same result: pieces do not depend on the number of processes.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from src.config import Evaluate
from src.evaluation.chat import template_args
from src.evaluation.private import PrivateHFLM, generate

MAX_BATCH_SIZE = 64
"""Rows of a batch where batch_size is auto, as lm-eval has it; less where that takes too much memory."""

Tensors = Mapping[str, torch.Tensor]
Requests = Mapping[str, Sequence[Any]]
"""lm-eval's requests, by the method of its models that answers them."""


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


@dataclass(frozen=True)
class Piece:
    """What is put to a model at a time."""

    kind: str
    """The method of lm-eval's models that answers it."""
    places: tuple[int, ...]
    """Which of the requests of this kind they are."""
    batch: Batch | None = None
    """For loglikelihood only; the others' batches are lm-eval's own."""


class ReusableModel(PrivateHFLM, HFLM):
    """An lm-eval model that can take the weights of another."""

    def __init__(
        self,
        folder: Path,
        tensors: Tensors | None,
        settings: Evaluate,
        devices: Sequence[str],
        *,
        seed: int,
        remote_code: bool,
    ) -> None:
        """Load a model as `BaseEvaluator.evaluate` is given it; several devices share its layers.

        Args:
            folder, tensors, devices, remote_code: as BaseEvaluator has them.
            settings: dtype, batch size, and whatever else lm-eval's HFLM takes.
            seed: of sampled generations.
        """
        ours = {"attn_implementation"} & set(settings.model_args)
        loaded = _load(
            folder,
            tensors,
            devices,
            dtype=settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype),
            trust_remote_code=remote_code,
            **{key: settings.model_args[key] for key in ours},
        )
        loaded.config.use_cache = False  # one pass predicts every token; generation asks for its cache by itself
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote_code)
        arguments = {key: value for key, value in settings.model_args.items() if key not in ours}
        arguments["chat_template_args"] = template_args(settings)
        size = settings.batch_size
        arguments["batch_size"] = arguments.get("max_batch_size", MAX_BATCH_SIZE) if size == "auto" else size
        super().__init__(pretrained=loaded.eval(), tokenizer=tokenizer, device=str(loaded.device), **arguments)
        self._seed = seed
        self._max_tokens = sys.maxsize  # tokens of a batch that were too many for the memory

    @property
    def lm(self) -> ReusableModel:
        """The model of lm-eval's that this is."""
        return self

    def load_weights(self, tensors: Tensors) -> bool:
        """Replace the weights by others of the same shapes; return False where the names are not this model's."""
        own = self.model.state_dict()
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        if any(name not in tensors for name in own if name not in tied):
            return False
        weights = {name: tensors[name].to(own[name].dtype) for name in own if name in tensors}
        self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()
        return True

    def pieces(self, requests: Requests) -> list[Piece]:
        """Return all requests in pieces of one batch each, the longest texts first."""
        found: list[Piece] = []
        for kind, asked in requests.items():
            if kind == "loglikelihood" and self.backend == "causal":
                encoded = self.encode(asked)
                same = self._rows(encoded)  # requests that differ in their last token only are one row
                rows = sorted(same, key=lambda row: (-len(row), row))
                found += [self._batch(part, same, encoded) for part in _chunks(rows, int(self.batch_size))]
            else:
                order = sorted(range(len(asked)), key=lambda i: (repr(asked[i].args[1:]), -len(asked[i].args[0]), i))
                found += [Piece(kind, tuple(places)) for places in _chunks(order, int(self.batch_size))]
        return found

    def answer(self, piece: Piece, requests: Requests) -> list[Any]:
        """Return the answers to a piece, in JSON's types; halve the batch where memory is short.

        A generated text comes with the number of tokens at which it was cut off, 0 where it was not.
        """
        while True:
            try:
                if piece.batch is not None:
                    return self._score_batch(piece.batch)
                torch.manual_seed(self._seed + piece.places[0])
                asked = [requests[piece.kind][place] for place in piece.places]
                if piece.kind == "generate_until":
                    return generate(self, asked)
                answers: list[Any] = getattr(super(), piece.kind)(asked, disable_tqdm=True)
                return answers
            except (RuntimeError, MemoryError) as error:
                short = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
                if not short or not self._shrink(piece):
                    raise

    def _score_batch(self, batch: Batch) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it."""
        rows = max(1, min(len(batch.tokens), self._max_tokens // batch.tokens.shape[1]))
        chosen = []
        for first in range(0, len(batch.tokens), rows):
            with torch.inference_mode():
                logits = self.logits(batch.tokens[first : first + rows].to(self.device))
                here = (batch.rows >= first) & (batch.rows < first + rows) if rows < len(batch.tokens) else slice(None)
                at = (batch.rows[here] - first).to(self.device), batch.columns[here].to(self.device)
                said = torch.log_softmax(logits[at], dim=-1, dtype=self.softmax_dtype)  # [n, vocabulary]
                targets = batch.targets[here].to(self.device)
                chosen.append((said.gather(1, targets[:, None])[:, 0].cpu(), (said.argmax(-1) == targets).cpu()))
        probabilities, right = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        answers: dict[int, tuple[float, bool]] = {}
        for places, tokens in batch.continuations:
            sums, greedy = probabilities[tokens].sum(1), right[tokens].all(1)
            answers |= zip(places.tolist(), zip(sums.tolist(), greedy.tolist(), strict=True), strict=True)
        return [answers[place] for place in range(len(answers))]

    def _shrink(self, piece: Piece) -> bool:
        """Halve the batches from now on; return False where one is a single row already."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if piece.batch is None:
            return self.halve_batch_size()
        rows, width = piece.batch.tokens.shape
        fitting = min(rows, self._max_tokens // width) // 2
        self._max_tokens = max(1, fitting) * width
        return fitting > 0

    def log_likelihoods(self, batch: Batch) -> torch.Tensor:
        """Return float [m], the log-probability of each of a batch's continuations, with its gradient."""
        columns, place = torch.unique(batch.columns, return_inverse=True)
        known = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        kept = {"logits_to_keep": columns.to(self.device)} if known else {}  # others are the largest of all activations
        logits = self.model(batch.tokens.to(self.device), **kept).logits
        at = batch.rows.to(logits.device), (place if known else batch.columns).to(logits.device)
        said = torch.log_softmax(logits[at], dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        chosen = said.gather(1, batch.targets.to(said.device)[:, None])[:, 0]
        sums = chosen.new_zeros(sum(len(places) for places, _ in batch.continuations))
        for places, tokens in batch.continuations:
            sums = sums.index_copy(0, places.to(said.device), chosen[tokens.to(said.device)].sum(1))
        return sums

    def batch(self, encoded: Sequence[tuple[list[int], list[int]]]) -> tuple[Batch, list[int]]:
        """Return contexts and continuations as one batch, and which of them each of its continuations is."""
        same = self._rows(encoded)
        piece = self._batch(sorted(same, key=lambda row: (-len(row), row)), same, encoded)
        assert piece.batch is not None
        return piece.batch, list(piece.places)

    def _rows(self, encoded: Sequence[tuple[list[int], list[int]]]) -> dict[tuple[int, ...], list[int]]:
        same: dict[tuple[int, ...], list[int]] = {}
        for place, (context, continuation) in enumerate(encoded):
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"a continuation has {len(continuation)} tokens; the model takes 1 to {self.max_length}"
                )
            shared = tuple([*context, *continuation][:-1][-self.max_length :])
            same.setdefault(shared, []).append(place)
        return same

    def _batch(
        self,
        texts: Sequence[tuple[int, ...]],
        same: Mapping[tuple[int, ...], list[int]],
        encoded: Sequence[tuple[list[int], list[int]]],
    ) -> Piece:
        tokens = torch.zeros((len(texts), len(texts[0])), dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        starts: dict[int, list[tuple[int, int]]] = {}
        places: list[int] = []
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor(text)
            for place in same[text]:
                continuation = encoded[place][1]
                starts.setdefault(len(continuation), []).append((len(places), len(targets)))
                rows += [row] * len(continuation)
                columns += range(len(text) - len(continuation), len(text))
                targets += continuation
                places.append(place)
        read = (torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))
        continuations = []
        for length, found in starts.items():
            which, first = torch.tensor(found).T
            continuations.append((which, first[:, None] + torch.arange(length)))
        return Piece("loglikelihood", tuple(places), Batch(tokens, *read, tuple(continuations)))


class VLLMModel:
    """vLLM, through lm-eval's own class. It reads checkpoints from disk and batches by itself."""

    def __init__(
        self, folder: Path, settings: Evaluate, devices: Sequence[str], *, seed: int, remote_code: bool
    ) -> None:
        """Start an engine for the checkpoint in `folder`."""
        from lm_eval.models.vllm_causallms import VLLM

        arguments: dict[str, Any] = {"tensor_parallel_size": len(devices), **settings.model_args}
        self.lm: Any = VLLM(
            pretrained=str(folder),
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            seed=seed,
            trust_remote_code=remote_code,
            **arguments,
        )

    def pieces(self, requests: Requests) -> list[Piece]:
        """Return one piece a kind of request: vLLM has a scheduler of its own."""
        return [Piece(kind, tuple(range(len(asked)))) for kind, asked in requests.items()]

    def answer(self, piece: Piece, requests: Requests) -> list[Any]:
        """Return the answers to a piece; a generated text with the tokens at which it was cut off, or 0."""
        if piece.kind == "generate_until":
            return generate(self.lm, requests[piece.kind])
        answers: list[Any] = getattr(self.lm, piece.kind)(list(requests[piece.kind]), disable_tqdm=True)
        return answers

    def close(self) -> None:
        """Free the memory; the next model needs all of it."""
        del self.lm
        gc.collect()
        torch.cuda.empty_cache()


def _load(folder: Path, tensors: Tensors | None, devices: Sequence[str], **arguments: Any) -> Any:
    """Load the model of a folder, with its own weights or these, on one device or spread over several."""
    if len(devices) > 1:
        arguments["device_map"] = "auto"
        arguments["max_memory"] = {torch.device(d).index: _memory(d) for d in devices}
    elif devices[0] != "cpu":
        arguments["device_map"] = {"": devices[0]}  # each tensor goes there by itself, never all through the host
    if tensors is None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, **arguments)
    else:
        trusted = {"trust_remote_code": arguments.pop("trust_remote_code")}
        config = AutoConfig.from_pretrained(str(folder), **trusted)
        with torch.device("meta"):
            kind: Callable[..., Any] = type(AutoModelForCausalLM.from_config(config, **trusted))
        loaded = kind.from_pretrained(None, config=config, state_dict=dict(tensors), **arguments)  # type: ignore[attr-defined]
    return loaded if len(devices) > 1 else loaded.to(devices[0])


def _memory(device: str) -> int:
    """Return the bytes of a GPU that the weights may take: what is free, less room for the activations."""
    return int(0.85 * torch.cuda.mem_get_info(device)[0])


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))
