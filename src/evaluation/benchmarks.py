"""Well-known test sets: a search that is steered by one has seen its answers, and a score there is no test score."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# The benchmarks that models are held against each other by, in lm-eval's names. A task is one of them if it has this
# name, or goes on after it with a digit, `_` or `-`: mmlu_anatomy, truthfulqa_mc2, gsm8k_cot.
PREFIXES = (
    *("openllm", "leaderboard", "metabench", "tinyBenchmarks"),  # whole leaderboards, as groups
    *("arc", "hellaswag", "mmlu", "truthfulqa", "winogrande", "gsm8k"),  # Open LLM Leaderboard 1
    *("ifeval", "bbh", "bigbench", "gpqa", "musr", "hendrycks_math", "minerva_math"),  # and 2
    *("humaneval", "mbpp", "aime", "mgsm", "gsm_plus", "mathqa", "agieval", "longbench", "mmmu"),
    *("boolq", "commonsense_qa", "drop", "lambada", "medqa", "nq_open", "openbookqa", "piqa", "race", "sciq"),
    *("squadv2", "super_glue", "triviaqa", "wsc273"),
)
_KNOWN = re.compile(rf"({'|'.join(PREFIXES)})([\d_-].*)?")


def warning(evaluate: Mapping[str, Any]) -> str | None:
    """Return a warning where a well-known test set steers the search and nothing is held out, else None.

    Args:
        evaluate: the run's settings of that name, as the journal keeps them.
    """
    names = [task["name"] for task in evaluate["tasks"]]
    steering = [name for name in names if _KNOWN.fullmatch(name)]
    if evaluate.get("holdout") or not steering:
        return None
    named = ", ".join(steering[:4]) + (f" and {len(steering) - 4} more" if len(steering) > 4 else "")
    return (
        f"{named} steer{'s' * (len(steering) == 1)} the search and nothing is held out: what the winner scores there "
        "is no test score. evaluate.holdout=0.5 keeps half of the samples for the end, [TASK, …] other tasks"
    )
