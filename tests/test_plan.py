"""dry_run=true: what a run would do, and that it does not do it."""

import importlib.util
import math
from pathlib import Path

import pytest

from src.journal import parse, replay
from tests.conftest import Command, run


def test_the_plan_has_founders_pairs_costs_and_predicted_kinship_and_writes_nothing(
    evolve: Command, tmp_path: Path
) -> None:
    outcome = evolve("dry_run=true", "strategy.k=4")
    assert outcome.status == 0, outcome.err
    assert "generation 1 merges red × green, red × blue, red × grey" in outcome.out
    # 6 pairs, then 4 generations of at most 6 and an exploration.
    assert "at most 34 merges and 38 evaluations (the 4 founders' among them)" in outcome.out
    assert "disk: at most" in outcome.out
    assert "kinship (pcc)" in outcome.out
    assert not (tmp_path / "outputs").exists()


def test_the_predicted_kinship_is_what_the_merge_then_has(evolve: Command, tmp_path: Path) -> None:
    plan = evolve("dry_run=true", "merge=linear", founders=("red", "green")).out
    (row,) = [line.split() for line in plan.splitlines() if line.strip().startswith("red × green") and "." in line]
    assert evolve("stop.generations=1", "merge=linear", founders=("red", "green")).status == 0
    pcc = replay(parse(tmp_path / "outputs/run/journal.jsonl")[0]).kinship["pcc"]
    for predicted, name in zip(row[-2:], ("red", "green"), strict=True):
        assert math.isclose(float(predicted), pcc[frozenset((name, "1-1"))], abs_tol=6e-4)  # printed to 3 digits


def test_the_plan_says_what_depends_on_scores(evolve: Command) -> None:
    assert "which depends on the founders' averages" in evolve("dry_run=true").out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("strategy=one_shot",), "at most 1 merges and 5 evaluations"),
        (("stop.evaluations=10",), "at most 6 merges and 10 evaluations"),
        (("stop.generations=null",), "no bound"),
        (("merge=ties",), "merge.method=ties does not allow to predict it"),
    ],
)
def test_the_plan_follows_the_settings(evolve: Command, overrides: tuple[str, ...], words: str) -> None:
    assert words in evolve("dry_run=true", *overrides).out


def test_a_plan_names_no_pairs_where_only_the_founders_answers_tell_what_is_made(evolve: Command) -> None:
    plan = evolve("dry_run=true", "strategy=recipe_gradient", "strategy.directions=null").out
    assert "generation 1 follows from what the founders answer" in plan
    assert "red × " not in plan


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash attention is installed")
def test_a_plan_says_that_a_package_is_missing_which_the_models_are_to_be_run_with(evolve: Command) -> None:
    outcome = evolve("dry_run=true", "evaluate.model_args.attn_implementation=flash_attention_2")
    assert outcome.status == 0, outcome.err
    assert "failed its first batch: FlashAttention2" in outcome.out


def test_the_papers_experiment_is_planned_even_where_no_hub_can_be_reached() -> None:
    outcome = run("strategy=kinship_topk", "founders=mistral7b", "evaluate=paper", "dry_run=true")
    assert outcome.status == 0, outcome.err
    assert "generation 1 merges metamath × instruct, metamath × openchat, instruct × openchat" in outcome.out
    assert "at most 19 merges and 22 evaluations" in outcome.out
    assert "winogrande, gsm8k, truthfulqa_mc2 steer the search and nothing is held out" in outcome.out
    assert (
        "not looked at: base, metamath, instruct, openchat (not downloaded yet, and the hub was not reached"
        in outcome.out
    )
