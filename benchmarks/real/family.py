"""The fine-tunes of the base, each taught two of the tasks, and the lm-eval tasks that tell them apart.

All weights are trained (AdamW, float32, on a GPU with the products in bf16) on the answers alone, and shipped as bf16,
as fine-tunes are. A founder, or a folder of tasks, that is there already is kept: an interrupted build goes on.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.real import questions
from src import zoo
from src.runtime.files import remove_abandoned, replacing_folder
from src.runtime.progress import bar, note
from src.zoo.skills import Question
from src.zoo.tasks import TEMPLATE

if TYPE_CHECKING:
    import torch

RATE, WARM, CLIP = 2e-4, 0.1, 1.0
"""The highest learning rate, the share of the steps until it is reached, and the longest gradient."""
TRAINING = "training.json"
"""Beside a founder's weights: how long it was taught."""
VERSION = 1
"""Of the tasks; lm-eval prints it beside their scores."""


@dataclass(frozen=True)
class Family:
    """What is built, and where."""

    base: Path
    folder: Path
    """Of the founders, each in a folder of its name, and the tasks."""
    seed: int
    steps: int
    """Of a founder's training."""
    batch: int
    """Questions a step, of both tasks together."""
    samples: int
    """Questions of a task to be asked, both sides of the holdout together."""
    device: str

    @property
    def founders(self) -> dict[str, Path]:
        """Their folders by name."""
        return {name: self.folder / name for name in questions.SKILLS}

    @property
    def tasks(self) -> Path:
        """Of the lm-eval tasks."""
        return self.folder / f"tasks-{self.samples}"


def build(family: Family) -> None:
    """Make whatever is not there yet: the tasks, and every founder."""
    family.folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(family.folder)
    if not family.tasks.is_dir():
        with replacing_folder(family.tasks) as made:
            write_tasks(made, family.seed, family.samples)
    for name, folder in family.founders.items():
        if not folder.is_dir():
            began = time.perf_counter()
            with replacing_folder(folder) as made:
                train(family, name, made)
                seconds = time.perf_counter() - began
                (made / TRAINING).write_text(json.dumps({"steps": family.steps, "seconds": seconds}), encoding="utf-8")
            note(f"founder {name}: {family.steps} steps in {seconds:.0f} s")


def training_seconds(family: Family) -> dict[str, float]:
    """Return the seconds that every founder of a built family took, whenever that was."""
    return {
        name: float(json.loads((folder / TRAINING).read_text(encoding="utf-8"))["seconds"])
        for name, folder in family.founders.items()
    }


def write_tasks(folder: Path, seed: int, samples: int) -> None:
    """Write every task as lm-eval reads it, with the embedded family's reader, which leaves nothing in a cache."""
    for reference, source in zoo.READER.items():
        (folder / f"{reference.partition('.')[0]}.py").write_bytes(source)
    for task in questions.DRAWS:
        rng = random.Random(f"choices {task} {seed}")
        lines = []
        for question in islice(questions.testing(task, seed), samples):
            choices = [question.answer, *question.distractors]
            rng.shuffle(choices)
            line = {"question": question.prompt, "choices": choices, "label": choices.index(question.answer)}
            lines.append(json.dumps(line) + "\n")
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / f"{task}.yaml").write_text(TEMPLATE.format(task=task, version=VERSION), encoding="utf-8")


def train(family: Family, founder: str, folder: Path) -> None:
    """Fine-tune the base on a founder's two tasks, and write it in bf16 with the base's tokenizer and card."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(family.base)
    model: Any = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    model.to(family.device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, family.steps))
    draws = [questions.training(task, family.seed) for task in questions.SKILLS[founder]]
    with bar(f"teaching {founder}", family.steps, "step") as shown:
        for _ in range(family.steps):
            asked = [next(draws[i % len(draws)]) for i in range(family.batch)]
            loss = answer_loss(model, encode(asked, tokenizer), family.device)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            schedule.step()
            shown.update()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if (card := family.base / "README.md").is_file():
        shutil.copyfile(card, folder / "README.md")


def _share_of_rate(step: int, steps: int) -> float:
    """Rise over the first steps, then a cosine down to nothing."""
    warm = max(1, round(WARM * steps))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))))


def encode(asked: Sequence[Question], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens int64[n, width], padded on the right, and which are an answer's, bool[n, width].

    Question and answer are encoded apart with a space between, as lm-eval does.
    """
    import torch

    prompts = tokenizer([one.prompt for one in asked])["input_ids"]
    answers = tokenizer([f" {one.answer}" for one in asked], add_special_tokens=False)["input_ids"]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # masked either way
    tokens = torch.full((len(asked), width), padding or 0)
    answering = torch.zeros(len(asked), width, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[i, :end] = torch.tensor([*prompt, *answer])
        answering[i, len(prompt) : end] = True
    return tokens, answering


def answer_loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor], device: str) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens; the head sees no others."""
    import torch

    tokens, answering = (one.to(device) for one in batch)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[answering[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][answering[:, 1:]])
