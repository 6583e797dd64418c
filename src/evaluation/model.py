"""Models that answer lm-eval's requests, piece by piece.

A `ReusableModel` is loaded once and takes the weights of one model after another. What does not depend on the weights
is done once: requests are tokenised, sorted and padded into batches, and the positions of their answers recorded. Any
process can answer any piece, with the same result: pieces do not depend on the number of processes.
"""

from __future__ import annotations

import gc
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from src.config import Evaluate
from src.evaluation import prefixes
from src.evaluation.batches import Batch, Encoded, Piece, Texts
from src.evaluation.chat import template_args
from src.evaluation.private import PrivateHFLM, generate
from src.runtime.terminal import warn

MAX_BATCH_SIZE = 64
"""Rows of a batch where batch_size is auto, as lm-eval has it; less where that takes too much memory."""
TRIED = 4
"""Rows that a model is asked with and without sharing, once, to see whether it can share."""

Tensors = Mapping[str, torch.Tensor]
Requests = Mapping[str, Sequence[Any]]
"""lm-eval's requests, by the method of its models that answers them."""


class ReusableModel(PrivateHFLM, HFLM):
    """An lm-eval model that can take the weights of another.

    Attributes:
        cached: bytes of keys and values that a token took in the last batch that shared what its texts begin with.
    """

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
        self._shares = settings.share_prefixes
        self.cached = 0.0
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
                found += self._scored(asked)
            else:
                order = sorted(range(len(asked)), key=lambda i: (repr(asked[i].args[1:]), -len(asked[i].args[0]), i))
                size = int(self.batch_size)
                found += [Piece(kind, tuple(order[first : first + size])) for first in range(0, len(order), size)]
        return found

    def _scored(self, asked: Sequence[Any]) -> list[Piece]:
        """Return log-likelihood requests in pieces."""
        texts, size = Texts(self.encode(asked), self.max_length), int(self.batch_size)
        if self._shares:
            parts = texts.parts([(one.task_name, one.doc_id) for one in asked], size)
            cut = next((part for part in parts if part.cuts), None)
            if parts and (cut is None or self._agrees(texts.piece(cut.rows[:TRIED], cut.cuts))):
                return [texts.piece(part.rows, part.cuts) for part in parts]
        return texts.pieces(size)

    def _agrees(self, piece: Piece) -> bool:
        """Return whether the model answers alike with keys and values from an earlier pass; if not, warn."""
        assert piece.batch is not None
        whole = replace(piece, batch=replace(piece.batch, cuts=()))
        try:
            prefixes.check(self.model.config)
            found, right = ([one for one, _ in self.answer(each, {})] for each in (piece, whole))
        except Exception as error:  # whatever models raise that were not made for it
            if _short_of_memory(error):
                raise
            why = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            off = sum(abs(one - other) for one, other in zip(found, right, strict=True)) / len(piece.batch.targets)
            most = prefixes.tolerance(self.model.dtype)
            if off <= most or not all(map(math.isfinite, right)):
                return True
            why = f"log-likelihoods would differ by {off:.2g} a token, where {most:.2g} may be rounding"
        warn(f"evaluate.share_prefixes: {type(self.model).__name__} is asked without sharing, since {why}")
        self._shares = False
        return False

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
                if not _short_of_memory(error) or not self._shrink(piece):
                    raise

    def _score_batch(self, batch: Batch) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it."""
        rows = max(1, min(len(batch.tokens), self._max_tokens // batch.tokens.shape[1]))
        chosen = []
        with torch.inference_mode():
            for first in range(0, len(batch.tokens), rows):
                for here, logits in self._passes(batch, first, first + rows):
                    said = torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)  # [n, vocabulary]
                    targets = batch.targets[here].to(said.device)
                    found = said.gather(1, targets[:, None])[:, 0].cpu(), (said.argmax(-1) == targets).cpu()
                    chosen.append((here, *found))
        here, probabilities, right = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        probabilities, right = probabilities[here.argsort()], right[here.argsort()]
        answers: dict[int, tuple[float, bool]] = {}
        for places, tokens in batch.continuations:
            sums, greedy = probabilities[tokens].sum(1), right[tokens].all(1)
            answers |= zip(places.tolist(), zip(sums.tolist(), greedy.tolist(), strict=True), strict=True)
        return [answers[place] for place in range(len(answers))]

    def _passes(self, batch: Batch, first: int, last: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield logits [n, vocabulary] of the tokens to be scored in some of the rows, and which these tokens are."""
        here = ((batch.rows >= first) & (batch.rows < last)).nonzero()[:, 0]
        tokens, rows, columns = batch.tokens[first:last], batch.rows[here] - first, batch.columns[here]
        if batch.cuts:
            cache = DynamicCache(config=self.model.config)
            for which, logits in prefixes.logits(self._go_on, cache, tokens, batch.cuts, rows, columns):
                yield here[which], logits
            self.cached = prefixes.nbytes(cache) / tokens.numel()
        else:
            yield here, self.logits(tokens.to(self.device))[rows.to(self.device), columns.to(self.device)]

    def _go_on(self, tokens: torch.Tensor, cache: Any, columns: torch.Tensor) -> torch.Tensor:
        """Return the logits at some columns of texts that go on from what a cache has; they are added to it."""
        half = self.mixed_precision_dtype
        with torch.autocast(self.device.type, half, enabled=half is not None):  # as lm-eval calls a model
            kept = self._only(columns)
            said = self.model(tokens.to(self.device), past_key_values=cache, use_cache=True, **kept).logits
        return said if kept else said[:, columns.to(said.device)]

    def _only(self, columns: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what keeps a model from computing logits elsewhere, the largest of all activations; {} if nothing."""
        known = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": columns.to(self.device)} if known else {}

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
        kept = self._only(columns)
        logits = self.model(batch.tokens.to(self.device), **kept).logits
        at = batch.rows.to(logits.device), (place if kept else batch.columns).to(logits.device)
        said = torch.log_softmax(logits[at], dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        chosen = said.gather(1, batch.targets.to(said.device)[:, None])[:, 0]
        sums = chosen.new_zeros(sum(len(places) for places, _ in batch.continuations))
        for places, tokens in batch.continuations:
            sums = sums.index_copy(0, places.to(said.device), chosen[tokens.to(said.device)].sum(1))
        return sums

    def batch(self, encoded: Encoded) -> tuple[Batch, list[int]]:
        """Return contexts and continuations as one batch, and which of them each of its continuations is."""
        (piece,) = Texts(encoded, self.max_length).pieces(len(encoded))
        assert piece.batch is not None
        return piece.batch, list(piece.places)


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


def _short_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _memory(device: str) -> int:
    """Return the bytes of a GPU that the weights may take: what is free, less room for the activations."""
    return int(0.85 * torch.cuda.mem_get_info(device)[0])
