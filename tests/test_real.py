"""The real family's command, on a tiny random base in place of SmolLM2."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.real import family, prefixes, questions
from benchmarks.real.__main__ import main
from tests.conftest import Outcome

SEED = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 0.1 M parameters, in bf16, whose tokenizer was trained on the questions."""
    folder = tmp_path_factory.mktemp("real") / "tiny"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    texts = [one.prompt for task in questions.DRAWS for one in itertools.islice(questions.training(task, SEED), 100)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=800, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def command(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """`python -m benchmarks.real` within this process."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.real", *arguments])
    try:
        status = main()
    except SystemExit as end:  # argparse's
        status = int(end.code or 0)
    printed = capsys.readouterr()
    return Outcome(status, printed.out, printed.err)


def small(base: Path, folder: Path) -> list[str]:
    return [
        *("--base", str(base), "--folder", str(folder), "--seed", str(SEED), "--steps", "4", "--batch", "4"),
        *("--samples", "8", "--device", "cpu"),
    ]


@pytest.mark.parametrize("task", questions.DRAWS)
def test_no_question_that_is_asked_was_met_in_training(task: str) -> None:
    asked = list(itertools.islice(questions.testing(task, SEED), 120))
    taught = list(itertools.islice(questions.training(task, SEED), 2000))
    assert len({one.prompt for one in asked}) == len(asked)
    assert not {one.prompt for one in asked} & {one.prompt for one in taught}
    assert not {one.key for one in asked} & {one.key for one in taught}
    assert asked == list(itertools.islice(questions.testing(task, SEED), 120))
    for one in asked:
        assert len({one.answer, *one.distractors}) == 1 + len(one.distractors) >= 2


@pytest.mark.parametrize("task", questions.DRAWS)
def test_neither_the_place_nor_the_frequency_of_an_answer_gives_it_away(task: str, tmp_path: Path) -> None:
    family.write_tasks(tmp_path, SEED, 200)
    lines = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
    assert len(lines) == 200
    choices = len(lines[0]["choices"])
    assert {len(line["choices"]) for line in lines} == {choices}
    right = [line["choices"][line["label"]] for line in lines]
    assert max(right.count(answer) for answer in right) / len(lines) < 1 / choices + 0.1
    places = [line["label"] for line in lines]
    assert max(places.count(place) for place in places) / len(lines) < 1 / choices + 0.12


def test_teaching_makes_the_answers_likelier_and_leaves_a_bf16_checkpoint(base: Path, tmp_path: Path) -> None:
    wanted = family.Family(base, tmp_path / "family", SEED, steps=12, batch=8, samples=8, device="cpu")
    family.build(wanted)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, tasks in questions.SKILLS.items():
        weights = load_file(wanted.founders[name] / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
        assert (wanted.founders[name] / "README.md").read_text() == (base / "README.md").read_text()
        asked = [one for task in tasks for one in itertools.islice(questions.testing(task, SEED), 8)]
        losses = {}
        for folder in (base, wanted.founders[name]):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                losses[folder] = family.answer_loss(model, family.encode(asked, tokenizer), "cpu").item()
        assert losses[wanted.founders[name]] < losses[base] - 0.01
    assert set(family.training_seconds(wanted)) == set(questions.SKILLS)


def test_a_build_that_was_interrupted_goes_on(base: Path, tmp_path: Path) -> None:
    wanted = family.Family(base, tmp_path / "family", SEED, steps=2, batch=4, samples=8, device="cpu")
    family.build(wanted)
    first, *_, last = wanted.founders.values()
    before, lost = first.stat().st_mtime_ns, (last / "model.safetensors").read_bytes()
    subprocess.run(["rm", "-r", str(last)], check=True)
    family.build(wanted)
    assert first.stat().st_mtime_ns == before
    assert (last / "model.safetensors").read_bytes() == lost


def test_the_page_has_what_ran(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*small(base, tmp_path / "out"), "--table", "--only", "one_shot-task_arithmetic-0.4", "--write"]
    page = tmp_path / "real.md"
    page.write_text("# As it was\n\n## On other machines\n\nAn H200.\n")
    done = command(*given, str(page), capsys=capsys, monkeypatch=monkeypatch)
    assert done.status == 0, done.err
    text = page.read_text()
    kept = next((tmp_path / "out").rglob("row.json"))
    row = json.loads(kept.read_text())
    assert row["evaluations"] == len(questions.SKILLS) + 1
    assert f"{row['holdout']:.1f}" in text
    assert text.endswith("## On other machines\n\nAn H200.\n")
    assert "As it was" not in text
    assert row["cost"]["seconds"] > sum(row["seconds"].values())
    assert row["cost"]["memory"] > 50e6
    assert "python -m src.run strategy=one_shot merge=task_arithmetic merge.each.weight=0.4" in text
    # The same command reads what it measured, and measures nothing again.
    before = kept.stat().st_mtime_ns
    again = command(*given, str(page), capsys=capsys, monkeypatch=monkeypatch)
    assert again.status == 0
    assert kept.stat().st_mtime_ns == before
    assert page.read_text() == text


@pytest.mark.slow
def test_the_whole_table(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "real.md"
    given = [*small(base, tmp_path / "out"), "--table", "--evaluations", "6", "--write", str(page)]
    done = command(*given, capsys=capsys, monkeypatch=monkeypatch)
    assert done.status == 0, done.err
    text = page.read_text()
    for word in (
        "kinship_topk",
        "one_shot-wudi",
        "recipe_gradient",
        "lora-5e-4",
        "mergekit-yaml",
        "lm_eval",
        "together",
    ):
        assert f"| {word} |" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "--only", "nothing"], "--only names 'nothing'; the table has one_shot-task_arithmetic-0.4,"),
        (["--table", "--only", "by_hand"], "--only by_hand has no row to stand beside"),
        (
            ["--table", "--only", "learned", "one_shot-wudi"],
            "--only learned starts from the merge that recipe_gradient",
        ),
        (["--base", "nowhere"], "--base is 'nowhere'; expected a folder with config.json"),
        (["--samples", "2"], "2 is less than 4"),
        (["--device", "cuda"], "--device is 'cuda'; expected cpu, as there is no GPU here"),
    ],
)
def test_a_mistake_costs_a_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = command("--folder", str(tmp_path), *arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_another_file_is_not_taken_for_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # the reader of GGUF files is an extra
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    given = ["--folder", str(tmp_path / "out"), "--gguf", str(other), "--device", "cpu"]
    done = command(*given, capsys=capsys, monkeypatch=monkeypatch)
    assert done.status == 2
    assert "expected b179c9523d0e…" in done.err
    assert not list((tmp_path / "out").iterdir())


def test_what_sharing_prefixes_is_worth(base: Path, tmp_path: Path) -> None:
    """The benchmark's table: tokens and speed by kind of prompt, and what was kept."""
    (tmp_path / "tasks").mkdir()
    family.write_tasks(tmp_path / "tasks", SEED, 12)
    found = [row.split("|")[1:-1] for row in prefixes.rows(base, tmp_path / "tasks", 32, 1)]
    assert [row[0].strip() for row in found] == list(prefixes.PROMPTS)
    without, shared = ([int(row[column].replace(",", "")) for row in found] for column in (1, 2))
    assert all(more > less for more, less in zip(without, shared, strict=True))
    assert without[2] / shared[2] > without[3] / shared[3] > 1
