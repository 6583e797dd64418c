"""Where a run comes from: when and by what command, with which code, and its whole configuration."""

from __future__ import annotations

import json
from typing import Any

from src.config import flat
from src.pages.document import Section, Table
from src.report.run_data import RunData
from src.runtime.provenance import described


def section(run: RunData) -> Section:
    """Return the run's starts and its configuration, as its journal has them; secrets were masked before."""
    words = [] if run.state.starts else ["The journal is of an older version, which kept no date and no command."]
    starts = [
        Table((f"start {place}" if len(run.state.starts) > 1 else "start", ""), rows, words=frozenset({0, 1}))
        for place, about in enumerate(run.state.starts, 1)
        if (rows := described(about))
    ]
    configuration = [(key, _text(value)) for key, value in sorted(flat(run.settings).items())]
    return Section(
        "settings",
        "Settings",
        words,
        tables=[*starts, Table(("setting", "value"), configuration, words=frozenset({0, 1}))],
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
