"""Where a run comes from: when and by what command, with which code, and its whole configuration."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from src.config import flat
from src.pages.document import Section
from src.pages.tables import Table
from src.report.run_data import RunData
from src.runtime.provenance import described


def section(run: RunData) -> Section:
    """Return the run's starts and its configuration, as its journal has them; secrets were masked before."""
    words = [] if run.state.starts else ["The journal is of an older version, which kept no date and no command."]
    starts = [dict(rows) for about in run.state.starts if (rows := described(about))]
    tables = [Table(("start", ""), list(starts[0].items()), words=frozenset({0, 1}))] if starts else []
    if len(starts) > 1:
        later = [(str(n), *_changed(*pair)) for n, pair in enumerate(itertools.pairwise(starts), 2)]
        tables.append(Table(("start", "date", "what changed since the one before"), later, words=frozenset({0, 1, 2})))
    configuration = [(key, _text(value)) for key, value in sorted(flat(run.settings).items())]
    return Section(
        "settings",
        "Settings",
        words,
        tables=[*tables, Table(("setting", "value"), configuration, words=frozenset({0, 1}))],
    )


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, str]:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key) and key != "date"]
    return now.get("date", ""), "; ".join(f"{key}: {_news(before.get(key), now.get(key))}" for key in keys) or "nothing"


def _news(before: str | None, now: str | None) -> str:
    """Return what is new in a command, or another text: words alone where only words were added or changed."""
    if before is None or now is None:
        return now or "unknown"
    was, found = before.split(), now.split()
    new = [word for word in found if word not in was]
    return f"… {' '.join(new)}" if new and len(found) >= len(was) > len(new) else now


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
