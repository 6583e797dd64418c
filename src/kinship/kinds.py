"""What a tensor is, read off its name: the layer that it belongs to, and its kind."""

from __future__ import annotations

import re

KINDS = ("attention", "mlp", "embeddings", "norms", "other")

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
# The first that matches counts: a norm inside the attention is a norm.
_PATTERNS = (
    ("norms", re.compile(r"norm|(?:^|\.)ln_?(?:\d|f|attn|mlp)?\.")),
    ("embeddings", re.compile(r"emb|(?:^|\.)(?:wte|wpe|lm_head)\.|^output\.weight$")),
    ("attention", re.compile(r"attn|attention|(?:^|\.)(?:wq|wk|wv|wo|[qkv]_proj|c_attn)\.")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|expert|(?:^|\.)(?:fc\d?|gate_proj|up_proj|down_proj|dense)\.")),
)


def layer_of(name: str) -> int | None:
    """Return a tensor's decoder layer; None for embeddings, the head and the final norm."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def kind_of(name: str) -> str:
    """Return one of `KINDS`. The output head counts among the embeddings."""
    lowered = name.lower()
    return next((kind for kind, pattern in _PATTERNS if pattern.search(lowered)), "other")
