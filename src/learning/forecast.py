"""What gradients take, before any is: the memory of one pass forwards and back, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from src.config import Settings
from src.evaluation.evaluator import Evaluator
from src.learning.samples import AT_ONCE, Sample, choices, samples
from src.models.checkpoint import Checkpoint
from src.models.founders import Found
from src.runtime.files import size_words
from src.strategy.recipe_gradient import RecipeGradient

EXACT = 4
"""Bytes of a value in float32, in which tensors are summed, and norms and probabilities computed."""


@dataclass(frozen=True)
class Memory:
    """Bytes that are held at once, at most."""

    weights: int
    activations: int
    """Of all layers, or with checkpointing their inputs and all of one layer; and of the logits."""
    tensor: int
    """Of the tensor whose inner products are taken: its gradient, the base's, a direction's, the product."""

    @property
    def peak(self) -> int:
        """All together."""
        return self.weights + self.activations + self.tensor


def memory(
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    itemsize: int,
    *,
    rows: int,
    width: int,
    columns: int,
    checkpointing: bool,
) -> Memory | None:
    """Return what one pass forwards and back takes; None of an architecture whose config.json has other words.

    With h, k, i the widths of the hidden state, of keys and of the MLP, a layer keeps for every token, of b bytes each:
    6 h + 4 k + 4 i values (inputs of linear weights and of attention, and the products within the MLP), and 3 h in
    float32 (two norms). Logits of c columns are kept at b bytes, and their softmax and its gradient in float32. How
    many directions there are does not matter: they come one by one.

    Args:
        config: of the model.
        shapes: of its tensors.
        itemsize: b, bytes of a weight.
        rows: of tokens that go through the model together.
        width: tokens of a row.
        columns: of a row, how many have their logits computed.
        checkpointing: whether a layer's input only is kept.
    """
    try:
        hidden, layers, wide = (config[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
    except KeyError:
        return None
    keys = (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads)
    tokens = rows * width
    layer = tokens * (itemsize * (6 * hidden + 4 * keys + 4 * wide) + 3 * EXACT * hidden)
    kept = layers * tokens * hidden * itemsize + layer if checkpointing else layers * layer
    logits = rows * columns * vocabulary * (itemsize + 3 * EXACT)
    largest = max(math.prod(shape) for shape in shapes.values())
    weights = itemsize * sum(math.prod(shape) for shape in shapes.values())
    return Memory(weights, kept + logits, largest * (itemsize + 4 * EXACT))


def forecast(settings: Settings, known: Mapping[str, Found], evaluator: Evaluator | None) -> str:
    """Return what the plan says of gradients, in a line.

    Args:
        settings: of a run whose strategy follows gradients.
        known: the base, as `base`, and the founders.
        evaluator: of the tasks; None where their data are not here.
    """
    strategy = settings.strategy
    founder = next((one.checkpoint for name, one in known.items() if one.checkpoint and name != "base"), None)
    if founder is None or evaluator is None:
        return "gradients: memory unknown, since no founder is here yet"
    if isinstance(strategy, RecipeGradient):
        found, _ = samples(evaluator, strategy.objective_loss)
        what = f"learning: at most {strategy.total} gradient steps of {strategy.batch} samples"
        size, lean = strategy.at_once or strategy.batch, strategy.checkpointing
        advice = "; strategy.at_once and strategy.checkpointing make it less"
    else:
        found = choices(evaluator)
        what = f"derivatives: once, forwards and back over {len(found)} samples, worth 3 evaluations at most"
        size, lean, advice = AT_ONCE, True, ""
    rows, width, columns = _largest(found, size, founder, settings.trust_remote_code)
    itemsize = max(spec.nbytes // max(1, spec.count) for spec in founder.tensors.values())
    takes = memory(
        founder.config,
        {name: spec.shape for name, spec in founder.tensors.items()},
        {"float32": 4, "float16": 2, "bfloat16": 2}.get(settings.evaluate.dtype, itemsize),
        rows=rows,
        width=width,
        columns=columns,
        checkpointing=lean,
    )
    if takes is None:
        return f"{what}; memory unknown, since config.json has no hidden_size, or other widths, by these names"
    return (
        f"{what}, {size_words(takes.peak)} at the peak ({size_words(takes.weights)} of weights, "
        f"{size_words(takes.activations)} of activations in {rows} rows of {width} tokens, {size_words(takes.tensor)} "
        f"for the tensor at hand){advice}"
    )


def _largest(found: Sequence[Sample], count: int, founder: Checkpoint, remote_code: bool) -> tuple[int, int, int]:
    """Return rows, tokens of a row, and scored columns of the largest pass: of the samples with the longest texts."""
    tokenizer = AutoTokenizer.from_pretrained(str(founder.path), trust_remote_code=remote_code)
    by_length = sorted(found, key=lambda one: -max(len(context + said) for context, said in _texts(one)))
    texts = [pair for one in by_length[:count] for pair in _texts(one)]
    sizes = [
        (len(tokenizer(context + said)["input_ids"]), len(tokenizer(context)["input_ids"])) for context, said in texts
    ]
    width = max(both for both, _ in sizes) + 1  # and the one that a text begins with
    return len(texts), width, width - min(min(context, both - 1) for both, context in sizes) + 1


def _texts(sample: Sample) -> list[tuple[str, str]]:
    return [(str(context), str(said)) for context, said in (one.args for one in sample.requests)]
