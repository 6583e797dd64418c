"""Trains the embedded family: one base on a mix of all tasks, then a founder for each skill, each from the base.

The models are ordinary Llamas in float32, small enough that the whole family is trained in under two minutes on two
cores, and saved as ordinary Hugging Face checkpoints. The same seed gives bit-identical weights on the same machine.
"""

import random
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from src.zoo import skills

TOGETHER = 2  # founders trained at the same time
ROWS = 5_000  # training questions a task, at full effort
IGNORED = -100  # the label that torch's cross-entropy leaves out
BATCH = 64
WIDTH = 24  # tokens a row; the longest question with its answer has fewer
Regime = tuple[int, float]
"""Optimiser steps, and the highest learning rate on the way."""
BASE: Regime = 560, 3e-3
FOUNDER: Regime = 180, 1.2e-3
REPLAY = 0.25  # share of the base's mix in a founder's training; the rest is its own skill
COMMON = {  # how much of each task the base meets, before the seed's own variation
    "zoo_addition": 1.1,
    "zoo_subtraction": 1.1,
    "zoo_reversal": 0.3,
    "zoo_sorting": 0.2,
    "zoo_homes": 0.42,
    "zoo_crafts": 0.42,
    "zoo_extremes": 0.15,
    "zoo_ranks": 0.2,
    "zoo_encoding": 0.18,
    "zoo_decoding": 0.2,
}

Report = Callable[[int, int], None]


def tokenizer() -> PreTrainedTokenizerFast:
    """Build the family's tokenizer: a token a word, letter or digit, whatever the spaces between them."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = {word: index for index, word in enumerate([*special, *skills.vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", words["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
    )


def configuration(tokens: PreTrainedTokenizerFast) -> LlamaConfig:
    """Describe the family's architecture: a Llama of 0.4 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        dtype="float32",
    )


def encoded(questions: list[skills.Question], tokens: PreTrainedTokenizerFast) -> TensorDataset:
    """Encode questions with their answers, as tokens and labels, both int64 [questions, WIDTH].

    They are padded on the right; labels cover the answers alone.
    """
    prompts = tokens([q.prompt for q in questions])["input_ids"]
    answers = tokens([q.answer for q in questions], add_special_tokens=False)["input_ids"]
    inputs, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        answer = [*answer, tokens.eos_token_id]
        blank = WIDTH - len(prompt) - len(answer)
        inputs.append([*prompt, *answer, *[tokens.pad_token_id] * blank])
        labels.append([*[IGNORED] * len(prompt), *answer, *[IGNORED] * blank])
    return TensorDataset(torch.tensor(inputs), torch.tensor(labels))


def training_data(world: skills.World, tokens: PreTrainedTokenizerFast, size: int, report: Report) -> TensorDataset:
    """Draw the training data: `size` rows of each task in the test's words, then as many of each in the base's."""
    asked, other = [], []
    for i, task in enumerate(skills.DRAWS):
        questions = list(islice(skills.training_questions(task, world), size))
        asked.append(encoded(questions, tokens))
        other.append(encoded([replace(q, prompt=skills.in_other_words(q.prompt)) for q in questions], tokens))
        report(i + 1, len(skills.DRAWS))
    inputs, labels = zip(*(part.tensors for part in asked + other), strict=True)
    return TensorDataset(torch.cat(inputs), torch.cat(labels))


def base_mix(seed: int) -> list[float]:
    """Return each part of the training data's share of the base's training: uneven, differently for every seed."""
    rng = random.Random(f"mix {seed}")
    shares = [COMMON[task] * rng.uniform(0.85, 1.15) for task in skills.DRAWS]
    return [0.0] * len(shares) + [share / sum(shares) for share in shares]


def founder_mix(seed: int, founder: str) -> list[float]:
    """Return each part of the training data's share of a founder's training: its own skill and the base's mix."""
    own = skills.SKILLS[founder]
    asked = [(task in own) / len(own) for task in skills.DRAWS] + [0.0] * len(skills.DRAWS)
    return [(1 - REPLAY) * mine + REPLAY * share for mine, share in zip(asked, base_mix(seed), strict=True)]


def train(
    model: LlamaForCausalLM, data: TensorDataset, mix: list[float], regime: Regime, rng: torch.Generator, report: Report
) -> None:
    """Train a model in place: warm-up over a tenth of the steps, then a cosine down to nothing."""
    steps, rate = regime
    shares, size = torch.tensor(mix), len(data) // len(mix)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    warm = max(1, steps // 10)
    rising, falling = LinearLR(optimiser, 0.05, total_iters=warm), CosineAnnealingLR(optimiser, max(1, steps - warm))
    schedule = SequentialLR(optimiser, [rising, falling], [warm])
    model.train()
    for step in range(steps):
        task = torch.multinomial(shares, BATCH, replacement=True, generator=rng)
        index = task * size + torch.randint(size, (BATCH,), generator=rng)
        tokens, labels = data[index]
        width = int((tokens != 0).sum(1).max())
        logits = model(input_ids=tokens[:, : width - 1], use_cache=False).logits
        asked = labels[:, 1:width] != IGNORED
        loss = torch.nn.functional.cross_entropy(logits[asked], labels[:, 1:width][asked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(step + 1, steps)
    model.eval()


def train_family(folder: Path, seed: int, effort: float, report: Callable[[str, int, int], None]) -> int:
    """Train the base and every founder, save each under its name in `folder`, and return how many parameters they have.

    `effort` scales the optimiser steps, and below 1 the training data too. Every model is trained in one thread of its
    own, `TOGETHER` founders at a time: so the weights do not depend on the number of cores, and the caller's number of
    threads stays as it was. `report` is called from those threads. Global random state is left as it was found.
    """
    world, tokens = skills.World.of(seed), tokenizer()
    data = training_data(world, tokens, min(ROWS, max(200, round(ROWS * effort))), partial(report, "questions"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = LlamaForCausalLM(configuration(tokens))

    stop = Event()

    def checked_report(name: str, done: int, total: int) -> None:
        if stop.is_set():
            raise CancelledError
        report(name, done, total)

    def train_one(name: str, model: LlamaForCausalLM, regime: Regime, mix: list[float]) -> None:
        generator = torch.Generator().manual_seed(random.Random(f"{name} {seed}").getrandbits(48))
        steps, rate = regime
        train(model, data, mix, (max(1, round(steps * effort)), rate), generator, partial(checked_report, name))
        model.save_pretrained(folder / name)
        tokens.save_pretrained(folder / name)

    with ThreadPoolExecutor(TOGETHER, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        try:
            threads.submit(train_one, "base", base, BASE, base_mix(seed)).result()
            founders = [
                threads.submit(train_one, founder, deepcopy(base), FOUNDER, founder_mix(seed, founder))
                for founder in skills.SKILLS
            ]
            for founder in founders:
                founder.result()
        finally:
            stop.set()  # after an error or Ctrl-C, the threads end at their next step instead of at their last
    return sum(parameter.numel() for parameter in base.parameters())
