"""The whole evolution through its front door: real merges, real evaluations, on a pico family."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.export import card
from src.journal import VOLATILE, parse, replay
from tests.checkpoints import write_checkpoint
from tests.conftest import Command
from tests.family import SAMPLES, TASKS

ALL_RULES_OFF = ("stop.unchanged=false", "stop.kinship=null", "stop.gain=null")


def events(outputs: Path, name: str = "run") -> list[dict[str, object]]:
    found, _ = parse(outputs / name / "journal.jsonl")
    return [{key: value for key, value in event.items() if key not in VOLATILE} for event in found]


def test_a_run_goes_through_its_generations_and_leaves_a_loadable_winner(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("stop.generations=2", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    assert "stopped: the budget of 2 generations is spent" in outcome.out
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    names = [model.name for model in state.population]
    assert names == ["red", "green", "blue", "grey", "1-1", "1-2", "1-3", *names[7:]]
    assert "2-exp" in names
    assert all(name in outcome.out for name in names)
    assert state.evaluations == len(names)
    assert state.samples == len(names) * SAMPLES * len(TASKS)
    best = tmp_path / "outputs/run/best"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(best), AutoTokenizer.from_pretrained(best)
    with torch.no_grad():
        assert torch.isfinite(model(**tokenizer("abc", return_tensors="pt")).logits).all()
    assert f"# {state.population.best(1)[0].name}" in (best / "README.md").read_text()


def test_scores_are_lm_evals_and_gains_and_kinships_are_their_own(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=1", "keep=all")
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    for model in state.population:
        samples = json.loads((tmp_path / f"outputs/run/samples/{model.name}.json").read_text())["samples"]
        by_hand = [100 * float(np.mean(list(samples[task].values()))) for task in TASKS]
        assert list(model.scores.values()) == pytest.approx(by_hand)
        assert model.average == pytest.approx(np.mean(by_hand))
    base = {k: v.double() for k, v in load_file(_family(state.sources) / "base/model.safetensors").items()}
    deltas = {}
    for name, folder in (("red", _family(state.sources) / "red"), ("1-1", tmp_path / "outputs/run/models/1-1")):
        weights = load_file(folder / "model.safetensors")
        deltas[name] = np.concatenate([(weights[k].double() - base[k]).numpy().ravel() for k in sorted(base)])
    expected = np.corrcoef(deltas["red"], deltas["1-1"])[0, 1]
    assert state.kinship["pcc"][frozenset(("red", "1-1"))] == pytest.approx(expected, rel=1e-6)


def _family(sources: dict[str, str]) -> Path:
    return Path(sources["base"]).parent


@pytest.mark.parametrize("merge", ["slerp", "dare_ties"])
def test_the_same_command_twice_gives_the_same_journal_bit_for_bit(evolve: Command, tmp_path: Path, merge: str) -> None:
    for name in ("first", "second"):
        assert evolve(f"name={name}", f"merge={merge}", "stop.generations=2", *ALL_RULES_OFF).status == 0
    first, second = events(tmp_path / "outputs", "first"), events(tmp_path / "outputs", "second")
    assert first[0].pop("settings") != second[0].pop("settings")  # their names
    assert first == second


def test_the_same_command_again_changes_nothing_and_says_so(evolve: Command, tmp_path: Path) -> None:
    journal = tmp_path / "outputs/run/journal.jsonl"
    evolve("stop.generations=1")
    before = journal.read_bytes()
    outcome = evolve("stop.generations=1")
    assert outcome.status == 0
    assert "finished" in outcome.out
    assert journal.read_bytes() == before


@pytest.mark.parametrize("keep", range(2, 22, 3))
def test_a_run_cut_anywhere_goes_on_to_the_same_end(evolve: Command, tmp_path: Path, keep: int) -> None:
    command = ("stop.generations=1", *ALL_RULES_OFF)
    evolve(*command)
    whole = events(tmp_path / "outputs")
    journal = tmp_path / "outputs/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:keep]) + lines[keep][: len(lines[keep]) // 2])
    outcome = evolve(*command)
    assert outcome.status == 0, outcome.err
    assert events(tmp_path / "outputs") == whole


def test_another_configuration_under_the_same_name_is_refused_with_what_differs(evolve: Command) -> None:
    evolve("stop.generations=1")
    outcome = evolve("stop.generations=1", "strategy.k=2")
    assert outcome.status == 2
    assert "the run run exists with another configuration: strategy.k was 3, is 2" in outcome.err
    assert "name=" in outcome.err


def test_one_shot_merges_all_founders_and_stops(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("strategy=one_shot")
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert len(state.population["1-1"].parents) == 4
    assert state.stopped == "nothing is left to merge"
    assert state.models["1-1"].recipe["config"]["merge_method"] == "wudi"


def test_a_budget_of_evaluations_is_kept_to_the_letter(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve("stop.evaluations=6", *ALL_RULES_OFF)
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert state.evaluations == 6
    assert state.stopped == "the budget of 6 evaluations is spent"


MERGES = sorted(path.stem for path in (Path(__file__).parent.parent / "conf/merge").glob("*.yaml"))
MERGES.remove("regmean")  # needs what founders read first: tests/models/test_inputs.py


@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_of_the_configuration_runs(evolve: Command, tmp_path: Path, merge: str) -> None:
    outcome = evolve(f"merge={merge}", "stop.generations=1", "strategy.k=2")
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert state.population["1-1"].average is not None
    assert state.models["1-1"].recipe["threads"] == 1


def test_a_method_of_mergekit_needs_no_more_than_its_keys(evolve: Command, tmp_path: Path) -> None:
    outcome = evolve(
        "stop.generations=1",
        "strategy.k=2",
        "merge.method=sce",
        "merge.base_model=ancestor",
        "merge.parameters=null",
        "merge.parameters={select_topk: 0.5}",
    )
    assert outcome.status == 0, outcome.err
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert state.models["1-1"].recipe["config"]["parameters"] == {"select_topk": 0.5}


def test_the_samples_that_a_limit_leaves_are_drawn_by_the_seed(evolve: Command, tmp_path: Path) -> None:
    drawn = {}
    for seed in (0, 0, 1):
        name = f"seed-{seed}-{len(drawn)}"
        evolve(f"name={name}", f"seed={seed}", "evaluate.limit=8", "stop.generations=1", "strategy.k=2")
        file = tmp_path / f"outputs/{name}/samples/red.json"
        drawn[name] = {task: set(ids) for task, ids in json.loads(file.read_text())["samples"].items()}
    first, again, other = drawn.values()
    assert first == again != other
    assert all(len(ids) == 8 for ids in first.values())
    assert first[TASKS[0]] != {str(i) for i in range(8)}


def test_a_recipe_from_the_founders_names_only_founders_and_earlier_merges(evolve: Command, tmp_path: Path) -> None:
    evolve("stop.generations=3", *ALL_RULES_OFF)
    state = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    name = next(m.name for m in state.population if m.generation > 1 and any("-" in p for p in m.parents))
    documents = list(yaml.safe_load_all(card.multi_recipe(state, name, state.sources)))
    assert [document.get("name") for document in documents][-1] is None
    made: set[str] = set()
    for document in documents:
        for model in document["models"]:
            assert Path(model["model"]).is_absolute() or model["model"] in made
        made.add(document.get("name"))


@pytest.mark.parametrize("merge", ["slerp", "linear", "ties"])
def test_founders_with_tokens_of_their_own_are_merged_and_the_rest_compared(
    evolve: Command, family: Path, tmp_path: Path, merge: str
) -> None:
    """As in the paper's founders, whose vocabularies differ by a token or two."""
    copy = Path(shutil.copytree(family, tmp_path / "family"))
    config = json.loads((copy / "blue/config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(copy / "blue")
    tokenizer.add_tokens(["<tool>"])
    weights = {name: tensor.numpy() for name, tensor in load_file(copy / "blue/model.safetensors").items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = np.vstack([weights[name], np.ones((1, weights[name].shape[1]), np.float32)])
    write_checkpoint(copy / "blue", weights, config={**config, "vocab_size": config["vocab_size"] + 1})
    tokenizer.save_pretrained(copy / "blue")
    outcome = evolve(f"merge={merge}", "strategy.k=4", "stop.generations=1", at=copy)
    assert outcome.status == 0, outcome.err
    assert "vocabulary sizes differ" in outcome.err
    found = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0])
    assert sum("blue" in model.parents for model in found.population) == 3
    assert all(model.average is not None for model in found.population)
