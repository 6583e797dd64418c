"""What evaluate.share_prefixes is worth: a model asked with and without it, in turns, by prompts of several kinds.

    python -m benchmarks.real.prefixes CHECKPOINT TASKS [--threads N] [--repeats N] [--batch-size N]

CHECKPOINT and TASKS are a founder's folder and the tasks' as `python -m benchmarks.real` prints them, or any others
whose tasks say `num_fewshot: 0`. Prints a table: what a whole evaluation takes, of half the samples, scoring included.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from src.config import Evaluate
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.runtime.command import Parser

FIRST = "fewshot_config:\n  sampler: first_n\n"
DESCRIPTION = (
    "You will be asked a question in plain English. Think about what is asked, and answer with a single word or "
    "number, without any explanation. Do not repeat the question, do not add punctuation, and do not say that you are "
    "not sure: there is always exactly one right answer, and it is among the words that a careful reader would expect."
)
PROMPTS = {
    "the question alone": (0, ""),
    "after a description": (0, f'description: "{DESCRIPTION}\\n\\n"\n'),
    "after 5 examples, the first": (5, FIRST),
    "after 5 examples, drawn": (5, ""),
}
"""How many examples there are, and what the tasks' files have besides."""


def rows(checkpoint: Path, tasks: Path, batch_size: int, repeats: int) -> Iterator[str]:
    """Yield a row of the table for each kind of prompt."""
    for name, (shots, more) in PROMPTS.items():
        with tempfile.TemporaryDirectory(prefix="kinmerge-prefixes-") as temporary:
            folder = Path(temporary) / "tasks"
            shutil.copytree(tasks, folder)
            for file in folder.glob("*.yaml"):
                text = file.read_text(encoding="utf-8").replace("num_fewshot: 0", f"num_fewshot: {shots}")
                file.write_text(text + more, encoding="utf-8")
            evaluators = [_evaluator(folder, batch_size, shares=shares) for shares in (False, True)]
            prepared = [evaluator.prepare(checkpoint) for evaluator in evaluators]
            seconds: list[list[float]] = [[], []]
            averages = [0.0, 0.0]
            for _ in range(repeats):
                for which, evaluator in enumerate(evaluators):
                    began = time.perf_counter()
                    found = evaluator.evaluate(checkpoint)
                    seconds[which].append(time.perf_counter() - began)
                    averages[which] = found.average
            rates = [found.count / statistics.median(spent) for spent in seconds]
            tokens = [sum(piece.batch.size for piece in pieces if piece.batch) for *_, pieces in prepared]
            model, _, pieces = prepared[1]
            assert isinstance(model, ReusableModel)
            cut = [piece.batch.tokens.numel() for piece in pieces if piece.batch and piece.batch.cuts]
            yield " | ".join(
                (
                    *(f"| {name}", *(f"{count:,}" for count in tokens), f"{tokens[0] / tokens[1]:.2f}"),
                    *(*(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"),
                    *(f"{model.cached * max(cut, default=0) / 2**20:.0f}", "{:.2f}, {:.2f} |".format(*averages)),
                )
            )


def _evaluator(tasks: Path, batch_size: int, *, shares: bool) -> Evaluator:
    names = tuple(sorted(file.stem for file in tasks.glob("*.yaml")))
    settings = Evaluate(
        tasks=names,  # type: ignore[arg-type]
        include=tasks,
        holdout=0.5,
        limit=None,
        batch_size=batch_size,
        backend="hf",
        dtype="auto",
        model_args={},
        share_prefixes=shares,
    )
    return Evaluator(settings, seed=0)


def main() -> int:
    """Print the table."""
    parser = Parser(prog="python -m benchmarks.real.prefixes", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| prompts | tokens without | with | ratio | samples/s without | with | ratio | MiB kept | scores |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for row in rows(options.checkpoint, options.tasks, options.batch_size, options.repeats):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
