"""evaluate.share_prefixes: what texts begin with alike goes through the model once, and the answers are the same."""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM

from src import start
from src.evaluation import prefixes
from src.evaluation.batches import Batch, Piece, Texts
from src.evaluation.evaluator import Evaluator
from src.evaluation.model import Requests, ReusableModel
from tests import processes
from tests.conftest import Command, run
from tests.family import TASKS
from tests.test_conf import settings as composed
from tests.test_evaluate import asked
from tests.test_mistakes import check_refused
from tests.test_processes import command, told

VOCABULARY, WINDOW = 30, 8
USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = USUAL | {"num_key_value_heads": 2}
GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
BLOOM: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
MPT: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}
STATES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
SHARING = {
    "grouped heads": transformers.LlamaConfig(**GROUPED),
    "GPT-NeoX": transformers.GPTNeoXConfig(**USUAL),
    "Qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "a window that slides": transformers.MistralConfig(**GROUPED, sliding_window=WINDOW),
    "every other layer a window": transformers.Gemma3TextConfig(
        **GROUPED, head_dim=8, layer_types=["sliding_attention", "full_attention"], sliding_window=WINDOW
    ),
    "learned positions": transformers.GPT2Config(**GPT2),
    "ALiBi": transformers.BloomConfig(**BLOOM),
    "ALiBi, otherwise": transformers.MptConfig(**MPT),
}
APART = {
    "a state": (transformers.MambaConfig(**STATES, state_size=4), "more of a text than keys and values"),
    "another cache": (transformers.RwkvConfig(**STATES, attention_hidden_size=32), "does not take a cache"),
    "positions by length": (
        transformers.LlamaConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "positions depend on a text's length (rope_type: dynamic)",
    ),
}


def words(draw: random.Random, least: int, most: int) -> str:
    return "".join(draw.choice("abcdefgh") for _ in range(draw.randint(least, most)))


def questions(*, examples: int, documents: int = 12, tasks: int = 2, seed: int = 0) -> Requests:
    """Requests with three choices, of several tokens and of one, where a choice may begin with another."""
    draw, found = random.Random(seed), []
    for task in range(tasks):
        shots = words(draw, examples, examples)
        for document in range(documents):
            context = shots + words(draw, 5, 20)
            choices = [words(draw, 1, 6), words(draw, 1, 6)]
            for number, choice in enumerate([*choices, choices[0] + words(draw, 1, 3)]):
                about = (f"task{task}", document, 1)
                found.append(Instance("loglikelihood", {}, (context, f" {choice}"), number, metadata=about))
    return {"loglikelihood": found}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, family: Path) -> Any:
    """A checkpoint of random weights of a configuration, with the pico family's tokenizer."""

    def make(name: str, config: Any) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"architecture {name}"
        if not folder.exists():
            torch.manual_seed(0)
            model: Any = AutoModelForCausalLM.from_config(config)
            for weights in model.parameters():
                if weights.dim() > 1:  # or hardly anything depends on what is read
                    torch.nn.init.normal_(weights, std=0.3)
            model.save_pretrained(folder)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / file).write_bytes((family / "red" / file).read_bytes())
        return folder

    return make


@pytest.fixture
def llama(made: Any) -> Path:
    folder: Path = made("grouped heads", SHARING["grouped heads"])
    return folder


def loaded(folder: Path, *, shares: bool, **changes: Any) -> ReusableModel:
    given = asked(["any"], folder, share_prefixes=shares, **{"batch_size": 16, **changes})
    return ReusableModel(folder, None, given, ("cpu",), seed=0, remote_code=False)


def batches(pieces: Sequence[Piece]) -> list[Batch]:
    return [piece.batch for piece in pieces if piece.batch is not None]


def answers(model: ReusableModel, requests: Requests) -> tuple[list[tuple[float, bool]], int]:
    """What a model answers, in order, and how many tokens went through it for that."""
    pieces, seen = model.pieces(requests), 0
    found: dict[int, tuple[float, bool]] = {}

    def count(_: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal seen
        seen += (arguments[0] if arguments else named["input_ids"]).numel()

    hook = model.model.register_forward_pre_hook(count, with_kwargs=True)
    for piece in pieces:
        found |= dict(zip(piece.places, model.answer(piece, requests), strict=True))
    hook.remove()
    return [found[place] for place in range(len(found))], seen


def check_same(found: Sequence[tuple[float, bool]], expected: Sequence[tuple[float, bool]], off: float = 1e-4) -> None:
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=0, abs=off)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("name", SHARING)
def test_answers_are_those_of_whole_texts(made: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, requests = made(name, SHARING[name]), questions(examples=25)
    expected, whole = answers(loaded(folder, shares=False), requests)
    model = loaded(folder, shares=True)
    found, seen = answers(model, requests)
    check_same(found, expected)
    assert len({value for value, _ in found}) > len(found) / 2
    assert seen < whole / 2
    assert any(len(batch.cuts) == 2 for batch in batches(model.pieces(requests)))
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("name", APART)
def test_a_model_that_cannot_share_is_asked_as_ever(made: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config, why = APART[name]
    folder, requests = made(name, config), questions(examples=10, documents=4)
    expected = answers(loaded(folder, shares=False), requests)
    model = loaded(folder, shares=True)
    for _ in range(2):
        assert answers(model, requests) == expected
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert type(model.model).__name__ in line
    assert why in line


def test_a_model_that_answers_otherwise_is_asked_as_ever(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one would whose positions begin anew with every pass."""
    go_on, requests = ReusableModel._go_on, questions(examples=25)
    monkeypatch.setattr(ReusableModel, "_go_on", lambda *given: go_on(*given).roll(1, 0) * 0.9)
    expected = answers(loaded(llama, shares=False), requests)
    assert answers(loaded(llama, shares=True), requests) == expected
    assert "LlamaForCausalLM is asked without sharing, since log-likelihoods would differ by" in capsys.readouterr().err


def test_in_bf16_rounding_is_no_reason_not_to_share(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = questions(examples=25)
    model = loaded(llama, shares=True, dtype="bfloat16")
    found, _ = answers(model, requests)
    expected, _ = answers(loaded(llama, shares=False, dtype="bfloat16"), requests)
    assert any(batch.cuts for batch in batches(model.pieces(requests)))
    off = [abs(one - other) for (one, _), (other, _) in zip(found, expected, strict=True)]
    assert sum(off) / len(off) < 0.25
    assert "warning" not in capsys.readouterr().err


def test_every_prefix_of_a_batch_goes_through_the_model_once(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task, whose documents are a batch: its examples, every context, the ends."""
    seen, go_on = [], ReusableModel._go_on

    def followed(self: ReusableModel, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tuple(tokens.shape))
        return go_on(self, tokens, *rest)

    monkeypatch.setattr(ReusableModel, "_go_on", followed)
    draw, shots = random.Random(1), words(random.Random(2), 40, 40)
    asked_ = []
    for document in range(8):
        context = shots + words(draw, 30, 30)
        for choice in range(4):
            text = (context, " " + "abcd"[choice] + words(draw, 4, 4))
            asked_.append(Instance("loglikelihood", {}, text, choice, metadata=("task", document, 1)))
    model = loaded(llama, shares=True, batch_size=32)
    (piece,) = model.pieces({"loglikelihood": asked_})
    seen.clear()
    model.answer(piece, {})
    batch = piece.batch
    assert batch is not None
    (one, first), (eight, second), (all_, third) = seen
    assert (one, eight, all_) == (1, 8, 32)
    assert first >= 40
    assert first + second >= 70  # and the blank, which all choices begin with
    assert first + second + third == batch.tokens.shape[1]
    assert batch.size == sum(rows * columns for rows, columns in seen)


def test_texts_that_are_cut_to_what_a_model_takes(llama: Path) -> None:
    """What is left of them is what they can share: examples do not begin at the same column any more."""
    requests = questions(examples=30)
    expected, whole = answers(loaded(llama, shares=False, model_args={"max_length": 36}), requests)
    found, seen = answers(loaded(llama, shares=True, model_args={"max_length": 36}), requests)
    check_same(found, expected)
    assert seen < whole


def test_batches_are_halved_where_memory_is_short(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = questions(examples=25)
    expected, _ = answers(loaded(llama, shares=False), requests)
    model = loaded(llama, shares=True)
    pieces = model.pieces(requests)
    go_on, rows = ReusableModel._go_on, []

    def within(self: ReusableModel, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("as on a GPU")
        rows.append(len(tokens))
        return go_on(self, tokens, *rest)

    monkeypatch.setattr(ReusableModel, "_go_on", within)
    found = dict(_answered(model, pieces))
    check_same([found[place] for place in range(len(found))], expected)
    assert 1 < max(rows) <= 5


def test_short_memory_is_no_reason_to_ask_otherwise(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("as on a GPU")

    monkeypatch.setattr(ReusableModel, "_go_on", full)
    with pytest.raises(torch.OutOfMemoryError):
        loaded(llama, shares=True).pieces(questions(examples=25))


def test_where_nothing_is_shared_batches_are_what_they_were(llama: Path) -> None:
    draw = random.Random(3)
    found = [words(draw, 10, 40) for _ in range(40)]
    asked_ = [
        Instance("loglikelihood", {}, (text, " a"), 0, metadata=("task", number, 1))
        for number, text in enumerate(found)
    ]
    one, other = (loaded(llama, shares=shares).pieces({"loglikelihood": asked_}) for shares in (False, True))
    assert [piece.places for piece in one] == [piece.places for piece in other]
    for batch, same in zip(batches(one), batches(other), strict=True):
        assert torch.equal(batch.tokens, same.tokens)
        assert same.cuts == ()


# --- any requests ----------------------------------------------------------------------------------------------------

TOKEN = st.integers(3, 5)
REQUEST = st.tuples(st.integers(0, 3), st.lists(TOKEN, max_size=12), st.lists(TOKEN, min_size=1, max_size=4))


def encoded(drawn: list[tuple[int, list[int], list[int]]], examples: list[int]) -> list[tuple[list[int], list[int]]]:
    return [([0, *examples[: 8 * (task % 2)], *context], said) for task, context, said in drawn]


@given(st.lists(REQUEST, min_size=1), st.lists(TOKEN, min_size=8, max_size=8), st.integers(1, 9), st.integers(4, 30))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_requests(
    llama: Path, drawn: list[tuple[int, list[int], list[int]]], examples: list[int], size: int, longest: int
) -> None:
    """Every request is answered, as without sharing, in batches of the size; what goes through the model is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "PASS", 0)  # so that whatever can be shared is
        texts = Texts(encoded(drawn, examples), longest)
        parts = texts.parts([task for task, *_ in drawn], size)
    if not parts:
        return
    assert sorted(text for part in parts for row in part.rows for text in row) == sorted(texts.places)
    assert sum(part.tokens for part in parts) < prefixes.padded([len(text) for text in texts.places], size)
    model = _models.setdefault(llama, loaded(llama, shares=False))
    expected = dict(_answered(model, texts.pieces(size)))
    pieces = [texts.piece(part.rows, part.cuts) for part in parts]
    found = dict(_answered(model, pieces))
    check_same([found[place] for place in range(len(drawn))], [expected[place] for place in range(len(drawn))])
    for part, batch in zip(parts, batches(pieces), strict=True):
        assert len(part.rows) <= size
        assert all(cut < len(row[0]) for cut in part.cuts for row in part.rows)
        assert batch.size == part.tokens
        assert {text for _, text in batch.texts()} == {text for row in part.rows for text in row}


_models: dict[Path, ReusableModel] = {}


def _answered(model: ReusableModel, pieces: Sequence[Piece]) -> Any:
    for piece in pieces:
        yield from zip(piece.places, model.answer(piece, {}), strict=True)


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_the_journals_of_one_process_and_of_two_are_the_same(family: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        arguments = command(family, tmp_path, f"by-{count}", "evaluate.share_prefixes=true")
        status = processes.wait(processes.start(count, lambda _, a=arguments: run(*a).status, tmp_path / f"out{count}"))  # type: ignore[misc]
        assert status == [0] * count, (tmp_path / f"out{count}.0").read_text()
    assert told(tmp_path, "by-1") == told(tmp_path, "by-2")


def test_an_evaluation_shares_and_scores_as_without(family: Path) -> None:
    requests = Evaluator(asked(list(TASKS), family / "tasks"), seed=0).requests
    assert any(batch.cuts for batch in batches(loaded(family / "red", shares=True).pieces(requests)))
    found = [
        Evaluator(asked(list(TASKS), family / "tasks", share_prefixes=shares), seed=0).evaluate(family / "red")
        for shares in (False, True)
    ]
    assert found[0].scores == found[1].scores


def test_it_is_part_of_what_a_run_is_and_older_journals_are_without(family: Path) -> None:
    plain, sharing = (
        Evaluator(asked(list(TASKS), family / "tasks", share_prefixes=on), seed=0) for on in (False, True)
    )
    assert plain.identity != sharing.identity
    now = start.of_run(composed())
    older = now | {"evaluate": {key: value for key, value in now["evaluate"].items() if key != "share_prefixes"}}
    assert start.changed(older, now) == []
    sharing_now = start.of_run(composed("evaluate.share_prefixes=true"))
    assert start.changed(older, sharing_now) == ["evaluate.share_prefixes"]


@pytest.mark.parametrize("examples", [False, True], ids=["short prompts", "a description"])
def test_the_plan_says_what_is_spared_or_would_be(
    evolve: Command, family: Path, tmp_path: Path, examples: bool
) -> None:
    """Of the pico family's tasks, whose questions have 7 tokens and 4 choices of 3 each."""
    for task in TASKS:
        config = yaml.safe_load((family / f"tasks/{task}.yaml").read_text())
        config |= {"description": "abc " * 10} if examples else {}
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(config))
    given = "dry_run=true", f"evaluate.include={tmp_path}", "evaluate.batch_size=32"
    off, on = (evolve(*given, f"evaluate.share_prefixes={shares}") for shares in ("false", "true"))
    assert (off.status, on.status) == (0, 0), off.err + on.err
    tokens = r"([\d,]+) of the ([\d,]+) tokens of an evaluation"
    would = re.search(rf"evaluate.share_prefixes=true would not encode {tokens} again", off.out)
    does = re.search(rf"evaluate.share_prefixes: {tokens} are in prefixes of others, and not encoded again\n", on.out)
    assert would, off.out
    assert does, on.out
    assert would.groups() == does.groups()
    spared, whole = (int(number.replace(",", "")) for number in does.groups())
    assert (0.75 if examples else 0.2) < spared / whole < (0.95 if examples else 0.6)
    assert re.search(r"of memory at its peak \([\d.]+ KiB of them keys and values of shared prefixes\), and", on.out)
    assert "keys and values" not in off.out


def test_the_plan_is_silent_where_little_would_be_spared(evolve: Command) -> None:
    outcome = evolve("dry_run=true", "evaluate.batch_size=1")
    assert outcome.status == 0, outcome.err
    assert "share_prefixes" not in outcome.out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluate.backend=vllm"], "share_prefixes=true, and backend=vllm, which shares them by itself"),
        (["evaluate.evaluator=a.B"], "share_prefixes=true, and evaluator=a.B, which batches as it likes"),
    ],
    ids=["vllm", "own evaluator"],
)
def test_it_is_refused_where_it_changes_nothing(evolve: Command, overrides: list[str], words: str) -> None:
    check_refused(evolve("evaluate.share_prefixes=true", *overrides), words)
