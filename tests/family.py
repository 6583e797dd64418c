"""A pico family: founders of a random base that transformers, mergekit and lm-eval take for real, made in a second."""

import json
from pathlib import Path

import numpy as np
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.checkpoints import CONFIG, llama_shapes, random_weights, write_checkpoint

FOUNDERS = ("red", "green", "blue", "grey")
TASKS = ("pico_vowels", "pico_words")
SAMPLES = 24
_SYMBOLS = ["<s>", "</s>", "<pad>", *" abcdefghijklmnopqrstuvwxyz?"]


def write_family(folder: Path, founders: tuple[str, ...] = FOUNDERS, dtype: str = "F32") -> Path:
    """`folder`/base, a folder for each founder, and `folder`/tasks with the two TASKS of SAMPLES samples each."""
    vocab = len(_SYMBOLS)
    config = {**CONFIG, "vocab_size": vocab, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}
    shapes = llama_shapes(vocab=vocab)
    base = random_weights(shapes, seed=0, scale=0.5)
    write_model(folder / "base", base, config, dtype)
    for seed, name in enumerate(founders, 1):
        write_model(folder / name, random_weights(shapes, seed, near=base, scale=0.3), config, dtype)
    _write_tasks(folder / "tasks")
    return folder


def write_model(folder: Path, weights: dict[str, np.ndarray], config: dict[str, object], dtype: str = "F32") -> None:
    """A checkpoint with its tokenizer."""
    write_checkpoint(folder, weights, dtype=dtype, config=config)
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(_SYMBOLS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    ).save_pretrained(folder)


def _write_tasks(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(5)
    for task in TASKS:
        lines = []
        for _ in range(SAMPLES):
            choices = ["".join(rng.choice(list("aeioubcd"), size=3)) for _ in range(4)]
            question = "".join(rng.choice(list("abcdefgh"), size=6))
            lines.append({"question": question, "choices": choices, "answer": int(rng.integers(4))})
        data = folder / f"{task}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}?",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(config))
