"""Grids: each run in a folder of its own that says what it differs in, and nothing beside them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import run as front_door
from src.config import Settings
from src.journal import events_of
from src.runtime.grid import with_overrides
from src.runtime.names import SAFE_NAME
from tests.conftest import Outcome, run
from tests.family import FOUNDERS, TASKS

Grid = Callable[..., Outcome]


@pytest.fixture
def grid(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """`python -m src.run -m …` on the pico family, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    models = ",".join(f"{name}:{family / name}" for name in FOUNDERS)

    def command(*overrides: str) -> Outcome:
        return run(
            *("founders=local", f"founders.base={family / 'base'}", f"founders.models={{{models}}}"),
            *(f"evaluate.tasks=[{','.join(TASKS)}]", f"evaluate.include={family / 'tasks'}", "evaluate.holdout=null"),
            *("track=none", "stop.generations=1", "workers.threads=1", *overrides),
        )

    return command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of the runs that a command would have made; none is."""
    found: list[Settings] = []

    def instead(settings: Settings) -> dict[str, float]:
        found.append(settings)
        return {}

    monkeypatch.setattr(front_door, "run", instead)
    return found


def names(found: list[Settings]) -> list[str]:
    return [settings.name for settings in found]


def test_every_run_of_a_grid_has_a_folder_of_its_own_and_there_is_nothing_else(grid: Grid, tmp_path: Path) -> None:
    outcome = grid("-m", "strategy=kinship_topk", "strategy.k=2,3")
    assert outcome.status == 0, outcome.err
    folders = ["local-kinship_topk-strategy.k=2", "local-kinship_topk-strategy.k=3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["cache", *folders]
    for k, folder in zip((2, 3), folders, strict=True):
        (started,) = (event for event in events_of(tmp_path / "outputs" / folder) if event["event"] == "started")
        assert (started["settings"]["name"], started["settings"]["strategy"]["k"]) == (folder, k)
        assert started["settings"]["track"]["group"] == "local-kinship_topk"
        assert started["provenance"]["command"].endswith(f"strategy=kinship_topk strategy.k={k}")
    again = grid("-m", "strategy=kinship_topk", "strategy.k=2,3")
    assert again.status == 0
    assert again.out.count("has finished already") == 2


def test_a_single_run_keeps_its_name(grid: Grid, asked: list[Settings]) -> None:
    grid("strategy=kinship_topk", "strategy.k=2")
    grid("strategy=kinship_topk", "name=mine")
    assert names(asked) == ["local-kinship_topk", "mine"]
    assert [settings.track.group for settings in asked] == [None, None]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["strategy=kinship_topk,greedy_topk"], ["local-kinship_topk", "local-greedy_topk"]),
        (
            ["strategy=greedy_topk", "strategy.k=2,3", "seed=range(0,2)"],
            [f"local-greedy_topk-strategy.k={k},seed={seed}" for k in (2, 3) for seed in (0, 1)],
        ),
        (["strategy=one_shot", "merge=linear,ties"], ["local-one_shot-merge=linear", "local-one_shot-merge=ties"]),
        (["name=mine", "seed=1,2"], ["mine-seed=1", "mine-seed=2"]),
        (["name=mine-${seed}", "seed=1,2"], ["mine-1", "mine-2"]),
        (["name=of/mine", "+evaluate.model_args.x=1,2"], [f"of/mine-evaluate.model_args.x={x}" for x in (1, 2)]),
        (["seed=5"], ["local-one_shot"]),
        (["+experiment=seeds", "seed=0,1"], ["seeds/one_shot-wudi-0", "seeds/one_shot-wudi-1"]),
        (
            ["+experiment=seeds", "seed=0", "strategy=greedy_topk", "strategy.k=2,3"],
            ["seeds/greedy_topk-slerp-0-strategy.k=2", "seeds/greedy_topk-slerp-0-strategy.k=3"],
        ),
        (
            [
                "+experiment=one_shot",
                "merge=task_arithmetic",
                "merge.each.weight=0.3,0.4",
                "seed=0",
                "name=strategies/one_shot-task_arithmetic_${merge.each.weight}-${seed}",
            ],
            ["strategies/one_shot-task_arithmetic_0.3-0", "strategies/one_shot-task_arithmetic_0.4-0"],
        ),
        (
            ["+experiment=one_shot", "seed=0"],
            [f"strategies/one_shot-{merge}-0" for merge in ("linear", "task_arithmetic", "ties")],
        ),
    ],
)
def test_what_a_run_differs_in_is_in_its_name_once(
    grid: Grid, asked: list[Settings], tmp_path: Path, overrides: list[str], expected: list[str]
) -> None:
    outcome = grid("-m", *overrides)
    assert outcome.status == 0, outcome.err
    assert names(asked) == expected
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_values_that_no_file_can_be_called_by_are_told_apart(grid: Grid, asked: list[Settings]) -> None:
    grid("-m", "evaluate.tasks=[pico_vowels],[pico_words]", "founders.base=/a/b,/a-b")
    assert len(set(names(asked))) == 4
    assert all(SAFE_NAME.fullmatch(name) for name in names(asked))
    assert [re.sub("[0-9a-f]{6}$", "", name) for name in names(asked)][:1] == [
        "local-one_shot-founders.base=-a-b,evaluate.tasks=-pico_vowels-"
    ]


def test_a_study_names_its_trials_itself(grid: Grid, asked: list[Settings]) -> None:
    grid("-m", "+sweep=strategy", "hydra.sweeper.n_trials=1", "seed=3")
    assert names(asked) == ["sweeps/strategy/0"]
    assert asked[0].track.group == "strategy"


text = st.text(st.characters(min_codepoint=32, max_codepoint=300), min_size=1, max_size=60)


@given(
    st.from_regex(SAFE_NAME, fullmatch=True).map(lambda name: name[:90]),
    st.lists(text, min_size=1, max_size=4, unique=True),
)
def test_a_name_with_overrides_can_always_be_a_folder(name: str, overrides: list[str]) -> None:
    found = with_overrides(name, overrides)
    assert SAFE_NAME.fullmatch(found)
    assert found.startswith(f"{name}-")


@given(st.lists(text, min_size=2, max_size=6, unique=True))
def test_other_overrides_are_another_name(overrides: list[str]) -> None:
    assert len({with_overrides("run", [one]) for one in overrides}) == len(overrides)
