"""Writes the family's tasks as lm-eval reads them: one YAML and one JSONL file a task."""

import json
import random
import shutil
from itertools import islice
from pathlib import Path

from src.zoo import skills

SAMPLES = 200  # questions a task

TEMPLATE = """\
task: {task}
class: !function questions.Questions
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: {version}
"""


def write(folder: Path, world: skills.World, version: float) -> None:
    """Write every task of a world into an existing folder, with the reader that lm-eval loads from there."""
    shutil.copyfile(Path(__file__).with_name("questions.py"), folder / "questions.py")
    for task in skills.DRAWS:
        rng = random.Random(f"choices {task} {world.seed}")
        with (folder / f"{task}.jsonl").open("w", encoding="utf-8") as file:
            for question in islice(skills.test_questions(task, world), SAMPLES):
                choices = [question.answer, *question.distractors]
                rng.shuffle(choices)
                label = choices.index(question.answer)
                file.write(json.dumps({"question": question.prompt, "choices": choices, "label": label}) + "\n")
        (folder / f"{task}.yaml").write_text(TEMPLATE.format(task=task, version=version), encoding="utf-8")
