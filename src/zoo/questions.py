"""lm-eval's way to a task's questions: the JSONL file beside the task's YAML file.

A copy of this file lies in the family's folder of tasks, and is all that lm-eval needs. Reading the file here rather
than through a path in the YAML keeps the tasks valid when their folder is renamed or moved, and never answers with a
stale copy out of a cache of data sets: a family rebuilt in the same place is read afresh.
"""

import json
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask


class Questions(ConfigurableTask):
    """A task whose test split is TASK.jsonl in this folder: one object a line, `question`, `choices` and `label`."""

    def __init__(self, config: dict[str, Any]) -> None:
        # lm-eval hands on the YAML's own `class` line, which its configuration does not know.
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Read the questions into memory; nothing is downloaded and nothing cached."""
        lines = Path(__file__).with_name(f"{self.config.task}.jsonl").read_text(encoding="utf-8").splitlines()
        test = datasets.Dataset.from_list([json.loads(line) for line in lines])
        self.dataset = datasets.DatasetDict({"test": test})
