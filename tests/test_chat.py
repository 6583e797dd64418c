"""Chats: prompts are what lm-eval would send, scores what it would give; what cannot be asked so is refused at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from src.evaluation import private
from src.evaluation.evaluator import Evaluator
from src.journal import CutOff, parse, replay
from tests.conftest import Command
from tests.family import FOUNDERS
from tests.test_evaluate import asked
from tests.test_mistakes import check_refused

TURNS = "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} {% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}a {% endif %}"
OTHER = TEMPLATE.replace("a {%", "b {%")
DEAF = TEMPLATE.replace("{{ m['role'][0] }}", "{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}u")
CHOSEN = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}?",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}?",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["?"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
TASKS = {"chosen": CHOSEN, "written": WRITTEN}


@pytest.fixture(scope="module")
def own(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico family as instruct models, and a task of either kind with two examples each."""
    folder = Path(shutil.copytree(family, tmp_path_factory.mktemp("chat") / "family"))
    for founder in FOUNDERS:
        (folder / founder / "chat_template.jinja").write_text(TEMPLATE)
    shutil.rmtree(folder / "tasks")
    (folder / "tasks").mkdir()
    data = folder / "tasks/data.jsonl"
    questions = [{"question": "abcdefgh"[: 1 + i % 7], "answer": "ab"[i % 2]} for i in range(20)]
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    for name, kind in TASKS.items():
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data), "train": str(data)}},
            "test_split": "test",
            "fewshot_split": "train",
            "num_fewshot": 2,
            **kind,
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def copy(own: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    return Path(shutil.copytree(own, tmp_path / "own"))


def lm_evals(model: Path, own: Path, **how: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """lm-eval's own results, and what it asked, by the kind of request."""
    sent: dict[str, list[Any]] = {}

    class Recorder(HFLM):
        def loglikelihood(self, requests: Any, **more: Any) -> Any:
            sent["loglikelihood"] = [one.args for one in requests]
            return super().loglikelihood(requests, **more)

        def generate_until(self, requests: Any, **more: Any) -> Any:
            sent["generate_until"] = [one.args for one in requests]
            return super().generate_until(requests, **more)

    manager = TaskManager(include_path=str(own / "tasks"), include_defaults=False)
    lm = Recorder(pretrained=str(model), device="cpu", batch_size=16)
    found: Any = lm_eval.simple_evaluate(lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **how)
    return found["results"], sent


def ours(model: Path, own: Path, **how: Any) -> tuple[Evaluator, dict[str, list[Any]]]:
    """An evaluator, and what it asks of this model."""
    evaluator = Evaluator(asked(list(TASKS), own / "tasks", **how), seed=0)
    _, requests, _ = evaluator._models.load(model, None, evaluator._asked)
    return evaluator, {kind: [one.args for one in all_] for kind, all_ in requests.items()}


HOW: list[dict[str, Any]] = [
    {},
    {"system_instruction": "be good"},
    {"apply_chat_template": True},
    {"apply_chat_template": True, "system_instruction": "be good"},
    {"apply_chat_template": True, "fewshot_as_multiturn": False},
    {"apply_chat_template": True, "system_instruction": "be good", "gen_kwargs": {"max_gen_toks": 7, "until": ["a"]}},
    {"gen_kwargs": {"max_gen_toks": 2, "do_sample": True, "temperature": 0.7}},
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_what_is_asked_is_what_lm_eval_itself_would_ask(own: Path, how: dict[str, Any]) -> None:
    results, sent = lm_evals(own / "red", own, **how)
    evaluator, requests = ours(own / "red", own, **how)
    assert requests == sent
    plain = ours(own / "red", own)[1]
    assert (requests == plain) is (not how)
    if not how.get("gen_kwargs", {}).get("do_sample"):
        scores = evaluator.evaluate(own / "red").scores
        assert scores["chosen"] == 100 * results["chosen"]["acc,none"]
        assert scores["written"] == 100 * results["written"]["exact_match,none"]


def test_every_setting_has_its_own_scores_in_the_cache(own: Path) -> None:
    identities = [Evaluator(asked(list(TASKS), own / "tasks", **how), seed=0).identity for how in [*HOW, *HOW]]
    assert len(set(identities)) == len(HOW)
    assert identities[: len(HOW)] == identities[len(HOW) :]
    evaluator = Evaluator(asked(list(TASKS), own / "tasks", apply_chat_template=True), seed=0)
    evaluator.evaluate(own / "red")
    assert evaluator.identity == identities[2], "found before or after a model was asked"


def test_every_model_is_asked_in_its_own_template(own: Path, copy: Path) -> None:
    (copy / "green/chat_template.jinja").write_text(OTHER)
    evaluator = Evaluator(asked(list(TASKS), own / "tasks", apply_chat_template=True), seed=0)
    for founder, place in (("red", own), ("green", copy), ("blue", own), ("green", copy)):
        scores = evaluator.evaluate(place / founder).scores
        results, sent = lm_evals(place / founder, own, apply_chat_template=True)
        assert scores["chosen"] == 100 * results["chosen"]["acc,none"]
        assert sent["loglikelihood"][0][0].endswith("b " if founder == "green" else "a ")


def test_a_part_of_the_samples_is_asked_as_the_whole_is(own: Path) -> None:
    evaluator = Evaluator(asked(list(TASKS), own / "tasks", apply_chat_template=True, share=0.5), seed=0)
    whole = evaluator._models.load(own / "red", None, evaluator._asked)[1]
    for order in ((0, 1), (1, 0)):
        found = [
            evaluator.part(number)._models.load(own / "red", None, evaluator.part(number)._asked)[1] for number in order
        ]
        for kind, requests in whole.items():
            parts = [one.args for part in found for one in part[kind]]
            assert sorted(map(repr, parts)) == sorted(repr(one.args) for one in requests)
            assert len(parts) == len(requests)
    assert evaluator.part(0).identity != evaluator.part(1).identity != evaluator.identity


def test_a_template_that_has_a_name(own: Path, copy: Path) -> None:
    """lm-eval takes the name, notes that template, and applies the default one: what is asked is that of the name."""
    (copy / "red/additional_chat_templates").mkdir()
    (copy / "red/additional_chat_templates/other.jinja").write_text(OTHER)
    named = ours(copy / "red", own, apply_chat_template="other")[1]
    (copy / "blue/chat_template.jinja").write_text(OTHER)
    assert named == ours(copy / "blue", own, apply_chat_template=True)[1]
    assert named != ours(copy / "red", own, apply_chat_template=True)[1]


def test_a_template_s_own_variables(own: Path, copy: Path) -> None:
    (copy / "red/chat_template.jinja").write_text("{{ date | default('d') }} " + TEMPLATE)
    how = {"apply_chat_template": True, "model_args": {"chat_template_args": {"date": "e"}}}
    found = ours(copy / "red", own, **how)[1]["loglikelihood"]
    (copy / "red/chat_template.jinja").write_text("e " + TEMPLATE)
    assert found == ours(copy / "red", own, apply_chat_template=True)[1]["loglikelihood"]
    (copy / "red/chat_template.jinja").write_text(TEMPLATE)
    assert found != ours(copy / "red", own, apply_chat_template=True)[1]["loglikelihood"]


def given(own: Path, *more: str) -> list[str]:
    return [
        f"evaluate.tasks=[{','.join(TASKS)}]",
        f"evaluate.include={own / 'tasks'}",
        "evaluate.apply_chat_template=true",
        "stop.generations=1",
        *more,
    ]


def test_a_run_of_instruct_models(evolve: Command, own: Path, copy: Path, tmp_path: Path) -> None:
    for folder in FOUNDERS:
        (copy / folder / "additional_chat_templates").mkdir()
        (copy / folder / "additional_chat_templates/other.jinja").write_text(OTHER)
    outcome = evolve(*given(copy, "evaluate.system_instruction=be good", "keep=all"), at=copy)
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert state.started is not None
    assert state.started["settings"]["evaluate"]["apply_chat_template"] is True
    best, child = tmp_path / "outputs/run/best", tmp_path / "outputs/run/models/1-1"
    for folder in (best, child):
        assert (folder / "chat_template.jinja").read_text() == TEMPLATE
        assert (folder / "additional_chat_templates/other.jinja").read_text() == OTHER
    evaluator, _ = ours(child, own, apply_chat_template=True, system_instruction="be good")
    assert evaluator.evaluate(child).scores == dict(state.population["1-1"].scores)
    changed = evolve(*given(copy, "keep=all"), at=copy)
    check_refused(changed, "evaluate.system_instruction was 'be good', is None")


Spoil = Callable[[Path], Any]
REFUSED: list[tuple[str, list[str], Spoil, str]] = [
    (
        "none",
        [],
        lambda blue: (blue / "chat_template.jinja").unlink(),
        "has no chat template; evaluate.apply_chat_template=false asks without, or put its chat_template.jinja there",
    ),
    (
        "no such name",
        ["evaluate.apply_chat_template=tool_use"],
        lambda blue: None,
        "has no chat template named 'tool_use'; evaluate.apply_chat_template can be: default",
    ),
    (
        "raises",
        [],
        lambda blue: (blue / "chat_template.jinja").write_text("{{ raise_exception('never') }}"),
        "blue: its chat template cannot be applied (TemplateError: never); evaluate.apply_chat_template=false asks",
    ),
    ("misspelt", ["evaluate.gen_kwargs.max_gen_tok=3"], lambda blue: None, "did you mean max_gen_toks?"),
    ("no mapping", ["evaluate.gen_kwargs=3"], lambda blue: None, "evaluate.gen_kwargs"),
    ("vllm", ["evaluate.apply_chat_template=other", "evaluate.backend=vllm"], lambda blue: None, "not installed"),
]


@pytest.mark.parametrize("plan", [False, True], ids=["run", "plan"])
@pytest.mark.parametrize(("_what", "more", "spoil", "words"), REFUSED, ids=[what for what, *_ in REFUSED])
def test_what_cannot_be_asked_is_refused_before_any_work(
    evolve: Command, copy: Path, tmp_path: Path, _what: str, more: list[str], spoil: Spoil, words: str, plan: bool
) -> None:
    spoil(copy / "blue")
    check_refused(evolve(*given(copy, *more, f"dry_run={plan}"), at=copy), words)
    assert not (tmp_path / "outputs").exists()


def test_a_template_that_takes_no_system_message_is_told_of(evolve: Command, copy: Path) -> None:
    (copy / "blue/chat_template.jinja").write_text(DEAF)
    outcome = evolve(*given(copy, "evaluate.system_instruction=be good", "dry_run=true"), at=copy)
    assert outcome.status == 0, outcome.err
    assert outcome.err == (
        "warning: the chat template of blue leaves system messages out: evaluate.system_instruction does not reach it\n"
    )
    results, sent = lm_evals(copy / "blue", copy, apply_chat_template=True, system_instruction="be good")
    evaluator, requests = ours(copy / "blue", copy, apply_chat_template=True, system_instruction="be good")
    assert requests == sent
    assert evaluator.evaluate(copy / "blue").scores["chosen"] == 100 * results["chosen"]["acc,none"]


def alone(lm: Any, prompt: str, most: int, stop: str) -> bool:
    """Whether a model's answer to the prompt is cut off at so many tokens, asked for one token at a time."""
    tokens = torch.tensor([lm.tok_encode(prompt)])
    for _ in range(most):
        token = int(lm.model(tokens).logits[0, -1].argmax())
        if token in lm.model.generation_config.eos_token_id or stop in lm.tok_decode([token]):
            return False
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    return True


@pytest.mark.parametrize("batch_size", [3, 16])
def test_answers_that_were_cut_off_are_counted(copy: Path, batch_size: int) -> None:
    """Against each answer generated alone, token by token; of tasks with the same prompts, and of repeated ones.

    Models may have several tokens that end a text, of which the tokenizer knows one.
    """
    asks = {"written": (1, 4, "b"), "again": (2, 9, "u")}  # repeats, tokens, what ends an answer
    config = yaml.safe_load((copy / "tasks/written.yaml").read_text())
    for task, (repeats, most, stop) in asks.items():
        how = {"until": [stop], "max_gen_toks": most, "do_sample": False}
        text = yaml.safe_dump({**config, "task": task, "repeats": repeats, "generation_kwargs": how})
        (copy / f"tasks/{task}.yaml").write_text(text)
    evaluator = Evaluator(asked(["written", "again", "chosen"], copy / "tasks", batch_size=batch_size), seed=0)
    shares: dict[str, set[float]] = {}
    for founder in ("red", "green", "grey"):
        letter = AutoTokenizer.from_pretrained(copy / founder).convert_tokens_to_ids("v")
        (copy / founder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, letter]}))
        lm = HFLM(pretrained=str(copy / founder), device="cpu")
        found = evaluator.evaluate(copy / founder).cut_off
        for task, (repeats, most, stop) in asks.items():
            prompts = [one.args[0] for one in evaluator._tasks["tasks"][task].instances]
            expected = repeats * sum(alone(lm, prompt, most, stop) for prompt in prompts)
            assert found.get(task) == (CutOff(answers=expected, of=20 * repeats, tokens=most) if expected else None)
            shares.setdefault(founder, set()).add(expected / (20 * repeats))
        assert "chosen" not in found
    assert all(any(0 < share < 1 for share in found) for found in shares.values()), shares


def test_what_vllm_tells_of_an_answer_that_was_cut_off() -> None:
    class Fake:
        """As much of lm-eval's VLLM as generates: it sorts, and hands its hook one answer after the other."""

        def set_cache_hook(self, hook: Any) -> None:
            self.hook = hook

        def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
            outputs = [
                SimpleNamespace(text="x" * len(r), finish_reason=["stop", "length"][len(r) > 3]) for r in requests
            ]
            return [SimpleNamespace(outputs=[output]) for output in outputs]

        def generate_until(self, requests: Any, disable_tqdm: bool) -> list[str]:
            order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
            contexts = [requests[i].args[0] for i in order]
            asked = [SimpleNamespace(max_tokens=5)] * len(order)
            found = self._model_generate(requests=contexts, generate=True, sampling_params=asked)
            texts = {}
            for place, context, one in zip(order, contexts, found, strict=True):
                texts[place] = one.outputs[0].text
                self.hook.add_partial("generate_until", (context, {}), texts[place])
            return [texts[place] for place in range(len(order))]

    requests = [SimpleNamespace(args=(prompt, {})) for prompt in ("ab", "abcd", "", "abcde", "ab")]
    fake = Fake()
    assert private.generate(fake, requests) == [("xx", 0), ("xxxx", 5), ("", 0), ("xxxxx", 5), ("xx", 0)]
    assert "_model_generate" not in vars(fake)


def test_a_run_tells_of_answers_that_were_cut_off(evolve: Command, own: Path, tmp_path: Path) -> None:
    listed = given(own, "evaluate.gen_kwargs.max_gen_toks=3", "evaluate.apply_chat_template=false")
    outcome = evolve(*listed, "evaluate.holdout=0.25")
    assert outcome.status == 0, outcome.err
    events = parse(tmp_path / "outputs/run/journal.jsonl")[0]
    told = {
        event["model"]: event["cut_off"] for event in events if event["event"] == "evaluated" and "cut_off" in event
    }
    assert told, "some pico model never ends"
    for model, found in told.items():
        cut = found["written"]
        assert (cut["of"], cut["tokens"]) == (15, 3)
        assert f"{model}: {cut['answers']} of 15 answers of written were cut off at 3 tokens\n" in outcome.out
    worst = max(one["written"]["answers"] for one in told.values())
    (warning,) = [line for line in outcome.err.splitlines() if "cut off" in line]
    assert warning.startswith("warning: ")
    assert f"{worst} of 15 answers of written were cut off at 3 tokens" in warning or "on the holdout" in warning
    assert "in a run of another name, evaluate.gen_kwargs.max_gen_toks=6 gives them more room" in warning
    again = evolve(*listed, "evaluate.holdout=0.25")
    assert warning in again.err, "the journal has it"
