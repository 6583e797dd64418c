"""Complaints about a configuration in a line or two: Hydra's, OmegaConf's and pydantic's own are for programmers.

Written for the words of hydra-core 1.3, omegaconf 2.3 and pydantic 2, to which tests/test_mistakes.py holds them.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from src.runtime.errors import UserError, printable

_UNION_BRANCHES = ("constrained-", "function-", "literal[", "float", "int", "tuple[")
"""Pydantic's, within the path of a key."""


def explain(error: Exception) -> str:
    """Return Hydra's or OmegaConf's complaint in one or two lines, with the nearest name that would have been right."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return printable(_explained("\n".join(map(str, chain))))


def _explained(text: str) -> str:
    if found := re.search(r"Could not find '([^/']+)/([^']*)'", text):
        known = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        near = difflib.get_close_matches(found[2], known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return f"{found[1]}={found[2]}: no such option. {hint}Known: {', '.join(known)}."
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]}: no such key. See --cfg job for the keys there are; +{found[1]}=… would add one."
    if "Missing mandatory value" in text and (found := re.search(r"full_key: (\S+)", text)):
        return f"{found[1]} has no value; give one: {found[1]}=…"
    if found := re.search(r"Cannot merge incompatible container types.*full_key: (\S+)", text, flags=re.DOTALL):
        return f"{found[1]}: a list was given for what is a mapping here; give it as {{key: value, …}}, or key by key."
    if found := re.search(r"Sweep parameters '(.*?)' requires --multirun", text):
        return f"{found[1]} stands for several runs; -m before the settings starts them one after the other."
    if found := re.search(r"Ambiguous value for argument '(.*?)'\n", text):
        key = found[1].partition("=")[0]
        return f"{found[1]}: one value is expected; a list is {key}=[…], text is in quotes, and -m runs each in turn."
    if "does not support sweep type : INTERVAL_SWEEP" in text:
        return (
            "interval(…) is for a search, +sweep=strategy for example; without one, give values: choice(…), range(…)."
        )
    if found := re.search(r"Error parsing override '(.*?)'\n(.*)", text):
        return f"{found[1]} could not be read as key=value ({found[2].strip()})."
    if found := re.search(r"string: (.*?) out of \[.*\]\.\s*(.*?)\s*See http", text, flags=re.DOTALL):
        return f"{found[1]} could not be read as key=value ({found[2]})."
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line)


def check_sweeps(overrides: Sequence[str]) -> None:
    """Raise UserError for a range on the command line that has no values: Hydra would start no run, and say nothing."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return  # Hydra says it better when it comes to it
    for override in filter(Override.is_range_sweep, parsed):
        some = None
        with suppress(ValueError, ArithmeticError):  # steps of 0
            some = next(override.sweep_string_iterator(), None)
        if some is None:
            raise UserError(
                f"{printable(str(override.input_line))}: no value lies there; expected range(START,STOP,STEP), "
                "which goes from START to before STOP, with a STEP other than 0"
            )


def is_config_error(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised it: a mistake in the configuration, not in this program."""
    if isinstance(error, ValueError):  # merge=1.5, say; Hydra has no exception of its own for a group that is a number
        raised_by = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        return raised_by[-1:] != [] and raised_by[-1].startswith(("hydra.", "omegaconf."))
    return isinstance(error, HydraException | OmegaConfBaseException)


def first_mistake(error: ValidationError, unspoken: Collection[str] = ()) -> str:
    """Return the first mistake that pydantic found, in a line: the key, what was found, what was expected.

    Args:
        error: what pydantic raised.
        unspoken: parts of a path that nobody typed: the names by which it tells members of a union apart.
    """
    details = error.errors()
    detail = details[0]
    path = [str(part) for part in detail["loc"] if part not in unspoken]
    path = [part for part in path if not part.startswith(_UNION_BRANCHES)]
    key = printable(".".join(path)) or "configuration"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if detail["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        line = f"{key}: no such key. See --cfg job for the keys there are."
    elif detail["type"] == "value_error":
        line = f"{key} {message}."
    elif detail["type"] == "missing":
        line = f"{key} is missing."
    elif detail["type"] == "union_tag_invalid":
        line = f"{key}.name is {detail['ctx']['tag']!r}. Known: {detail['ctx']['expected_tags']}."
    else:
        line = f"{key} is {detail['input']!r}; {message.removeprefix('input ')}."
    more = len({item["loc"][:2] for item in details}) - 1
    return f"{line} ({more} more mistake{'s'[: more > 1]} beside it.)" if more else line
