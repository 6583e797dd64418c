"""The pedigree's lines: each leads from a parent to its offspring, and past everybody else."""

from pathlib import Path

import pytest

from src.population import Model
from src.report.layers import Layers, Line, Place, layers
from src.report.pedigree import layout
from src.report.run_data import load
from tests.report.runs import Run
from tests.report.test_page import OFF, TASKS

FOUNDERS = ("math", "chat", "verse", "law", "chess")
RADIUS = 0.1
"""How near a line may pass by a model that it does not concern, in models."""


def through(laid: Layers, line: Line) -> list[str]:
    """Models other than its ends that a line touches: lines are straight up and down between two columns alone."""
    (x0, y0), (x1, y1) = line.start, line.end
    found = []
    for name, (x, y) in laid.models.items():
        if (x, y) not in (line.start, line.end) and x0 <= x <= x1:
            share = (x - x0) / (x1 - x0)
            height = y0 + (y1 - y0) * share * share * (3 - 2 * share)
            found += [name] if abs(height - y) < RADIUS else []
    return found


def leads(laid: Layers, start: Place, end: Place, child: str) -> bool:
    """Whether the lines of a child join two places."""
    lines = [line for line in laid.lines if child in line.children]
    reached, seen = {start}, 0
    while len(reached) > seen:
        seen = len(reached)
        reached |= {line.end for line in lines if line.start in reached}
    return end in reached


@pytest.mark.parametrize(
    ("models", "overrides"),
    [(24, ("strategy.k=3",)), (120, ("strategy=random_pairs", "strategy.k=5"))],
)
def test_every_parent_is_joined_to_its_offspring_past_everybody_else(
    tmp_path: Path, models: int, overrides: tuple[str, ...]
) -> None:
    run = load(Run(tmp_path / "run", FOUNDERS, TASKS, *overrides, *OFF).write(models))
    laid = layout(run)
    assert len(laid.models) == models
    assert [line for line in laid.lines if through(laid, line)] == []
    for model in run.offspring:
        for parent in model.parents:
            assert leads(laid, laid.models[parent], laid.models[model.name], model.name)


def test_merges_of_the_same_parents_share_a_line_from_each() -> None:
    founders = [Model(name, 0) for name in "abcdef"]
    merges = [Model(f"{generation}-1", generation, tuple("abcdef")) for generation in range(1, 21)]
    laid = layers([*founders, *merges])
    assert list(laid.junctions) == [tuple(model.name for model in merges)]
    assert len(laid.lines) < 6 + 3 * len(merges)  # instead of 6 a merge
    assert [line for line in laid.lines if through(laid, line)] == []
    for model in merges:
        assert all(leads(laid, laid.models[one], laid.models[model.name], model.name) for one in "abcdef")
