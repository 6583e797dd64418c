"""Every configuration composes, is valid, and explains itself."""

import itertools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src import config, zoo
from src.config import Settings

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in CONF.iterdir() if folder.is_dir()
}
COMMENTED_WITHIN = ("name", "strategy", "defaults", "explore", "sweep", "stop", "track", "cache", "hydra", "ray")
NEEDED = {
    "founders=local": ["founders.base=b", "founders.models=[x,y]", "evaluate.tasks=[q]"],
    "evaluate=custom": ["evaluate.tasks=[q]"],
}


def settings(*overrides: str) -> Settings:
    with initialize_config_dir(str(CONF)):
        return config.read(compose("config", [*overrides, "name=run"]))


@pytest.mark.parametrize("option", [f"{group}={name}" for group, names in GROUPS.items() for name in names])
def test_every_option_of_every_group_composes_to_valid_settings(option: str) -> None:
    added = "+" if option.startswith(("sweep=", "experiment=")) else ""
    assert settings(added + option, *NEEDED.get(option, [])).name == "run"


def test_every_pair_of_strategy_and_merge_composes() -> None:
    for strategy, merge in itertools.product(GROUPS["strategy"], GROUPS["merge"]):
        found = settings(f"strategy={strategy}", f"merge={merge}")
        assert found.strategy.name == strategy
        assert found.merge.method == re.sub("_gradient$", "", merge)


def test_a_treatment_is_none_unless_it_does_something_and_a_merge_s_own_counts() -> None:
    assert settings("merge=ties").merge.treatment is None
    found = settings("merge=ties", "merge.treatment.lines.alpha=0.5", "merge.treatment.lines.beta=1").merge.treatment
    assert found is not None
    assert found.factor == [0.5, 1.5]
    with initialize_config_dir(str(CONF)):
        composed = compose("config", ["merge=ties", "name=run", "merge.treatment.scale=[1,2]"])
    found = config.read(composed).merge.treatment
    assert found is not None
    assert found.factor == [1, 2]


def test_every_key_is_commented() -> None:
    """Files that differ from a sibling only in values may point to it instead."""
    for file in CONF.rglob("*.yaml"):
        text = file.read_text()
        assert text.startswith("#"), f"{file} does not say what it is"
        told = file.parent.name in {"track", "founders", "experiment", "sampler"} or file.name == "config.yaml"
        if "explains every key" in text or told:
            continue
        for line in text.splitlines():
            if re.match(r"[a-z_]+:", line) and line.split(":")[0] not in COMMENTED_WITHIN:
                assert "#" in line, f"{file}: {line}"


def test_the_zoo_s_founders_and_tasks_are_those_that_it_builds() -> None:
    found = settings()
    assert tuple(found.founders.models) == zoo.FOUNDERS
    assert tuple(task.name for task in found.evaluate.tasks) == zoo.TASKS
    assert found.uses_zoo


def test_another_seed_is_another_family_unless_told_otherwise() -> None:
    assert settings("seed=3").zoo.seed == 3
    assert settings("seed=3", "zoo.seed=0").zoo.seed == 0
    assert settings("seed=3").zoo.folder != settings("seed=4").zoo.folder


def test_the_paper_s_founders_bring_the_paper_s_merge_unless_told_otherwise() -> None:
    assert settings("founders=mistral7b", "strategy=kinship_topk").merge.parameters["t"][0]["value"] == [
        0,
        0.5,
        0.3,
        0.7,
        1,
    ]
    assert settings("founders=mistral7b", "merge=ties").merge.method == "ties"
    assert settings("founders=mistral7b", "strategy=one_shot").merge.method == "wudi"


def test_founders_bring_tasks_that_are_theirs_unless_told_otherwise() -> None:
    own = NEEDED["founders=local"]
    found = settings("founders=local", *own)
    assert ([task.name for task in found.evaluate.tasks], found.evaluate.holdout) == (["q"], 0.5)
    assert not found.uses_zoo, "nothing of the embedded family is trained for somebody's own models"
    assert settings("founders=mistral7b").evaluate.tasks[0].name == "winogrande"
    for founders in (["founders=local", *own[:2]], ["founders=mistral7b"], []):
        for evaluate, first, holdout in (("paper", "winogrande", None), ("zoo", "zoo_addition", 0.5)):
            given = settings(*founders, f"evaluate={evaluate}").evaluate
            assert (given.tasks[0].name, given.holdout) == (first, holdout)
    assert settings("founders=local", *own, "strategy=kinship_topk").evaluate.tasks[0].name == "q"


def test_the_default_is_what_measured_best_and_the_paper_is_a_word_away() -> None:
    assert (settings().strategy.name, settings().merge.method) == ("one_shot", "wudi")
    assert (settings("strategy=kinship_topk").merge.method) == "slerp"
    paper = settings("+experiment=paper")
    assert (paper.strategy.name, paper.merge.method) == ("kinship_topk", "slerp")


def test_the_paper_s_tasks_have_the_leaderboard_s_shots() -> None:
    tasks = {task.name: task for task in settings("evaluate=paper").evaluate.tasks}
    assert {name: task.shots for name, task in tasks.items()} == {"winogrande": 5, "gsm8k": 5, "truthfulqa_mc2": 0}
    assert tasks["gsm8k"].metric == "exact_match,strict-match"


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "slurm", "ray_machine"])
@pytest.mark.parametrize("option", [*(f"sweep={name}" for name in GROUPS["sweep"]), "experiment=seeds"])
def test_every_sweep_composes_with_every_launcher(option: str, launcher: str) -> None:
    with initialize_config_dir(str(CONF)):
        composed = compose("config", [f"+{option}", f"hydra/launcher={launcher}"], return_hydra_config=True)
    target = composed.hydra.launcher._target_.rsplit(".", 1)[-1]
    assert target.lower().removesuffix("launcher") in launcher.replace("_", "") or launcher == "submitit_local"
    sweeper = "StudySweeper" if option.startswith("sweep") else "BasicSweeper"
    assert composed.hydra.sweeper._target_.endswith(sweeper)


def test_strategies_are_compared_at_one_budget_by_which_alone_they_end() -> None:
    found = settings("+experiment=strategies").stop
    assert found.evaluations is not None
    assert (found.generations, found.hours, found.unchanged, found.kinship, found.gain) == (
        None,
        None,
        False,
        None,
        None,
    )
