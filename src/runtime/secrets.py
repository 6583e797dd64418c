"""Secrets: keys and passwords that a command line or a configuration may carry, and that no file of a run may."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
_PARTS_OF_TEXT = ("pad_", "eos_", "bos_", "unk_", "sep_", "cls_", "mask_", "stop_")  # tokens that are none
_NAME = (
    "".join(f"(?<!{part})" for part in _PARTS_OF_TEXT)
    + r"(?:token|secret|password|passwd|pwd|credentials?|(?:api|access|private|secret)_?key)"
)
_NAMED = re.compile(rf"(?:^|[^a-z]){_NAME}$", re.IGNORECASE)
_GIVEN = re.compile(rf"""((?:^|[^a-z]){_NAME}["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,}}\]"']+)""", re.IGNORECASE)
_IN_URL = re.compile(r"(\w://[^\s/:@]*:)[^\s/@]+(?=@)")
_KEYS = re.compile(r"\b(?:hf_|gh[pousr]_)[A-Za-z0-9]{30,}|\b(?:sk-|wandb_v\d_)[\w-]{20,}")  # of well-known services
_IN_ENVIRONMENT = re.compile(r"_(API_?KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST = 8


def masked_command(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments, masked, without what variables of the environment that are named like secrets hold.

    A configuration is not held against the environment: it must be the same wherever it is read.
    """
    held = [value for name, value in os.environ.items() if _IN_ENVIRONMENT.search(name) and len(value) >= _SHORTEST]
    found = []
    for argument in arguments:
        for value in held:
            argument = argument.replace(value, HIDDEN)
        found.append(masked(argument))
    return found


def masked(text: str) -> str:
    """Return a text in which whatever looks like a secret is ***.

    That is the value of a key that is named like one (`model_args.token=…`, `{api_key: …}`), a password in a URL, and
    what begins as keys of well-known services do.
    """
    return _KEYS.sub(HIDDEN, _IN_URL.sub(rf"\1{HIDDEN}", _GIVEN.sub(rf"\1{HIDDEN}", text)))


def masked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings whose texts are masked, and whose values under a secret's name are ***."""
    return {
        key: HIDDEN if value is not None and _NAMED.search(str(key)) else _masked(value)
        for key, value in settings.items()
    }


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked_settings(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_masked, value))
    return masked(value) if isinstance(value, str) else value
