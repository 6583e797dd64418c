"""What benchmarks learn with, beside a recipe: all weights and a LoRA, of a bf16 model, and what is written of them."""

from pathlib import Path

import pytest
import torch

from benchmarks import learners
from src.evaluation.evaluator import Evaluator
from src.learning.samples import Division, samples
from src.strategy.recipe_gradient import RecipeGradient
from tests.family import TASKS, write_family
from tests.test_evaluate import asked


@pytest.mark.parametrize("method", ["recipe", "weights", "lora"])
def test_each_lowers_the_loss_it_learns_by_and_leaves_a_bf16_model(method: str, tmp_path: Path) -> None:
    family = write_family(tmp_path / "family", dtype="BF16")
    evaluator = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)
    model = evaluator.model(family / "red")
    found, weights = samples(evaluator, "target")
    division = Division.of(found, weights, share=0.5, most=None, seed=0)
    how = RecipeGradient(name="recipe_gradient", seed=0, batch=8, steps=10, total=20, rate=1e-2)
    if method == "recipe":
        directions = {name: family / name for name in ("red", "green", "blue")}
        looks = learners.recipe(model, division, how, family / "base", directions, "red")
        kept = [(look.steps, look.kept_back, look.tensors()) for look in looks]
    else:
        looks = learners.fine_tuned(model, division, how, 4 if method == "lora" else None)
        kept = [(look.steps, look.kept_back, {n: t.clone() for n, t in look.tensors().items()}) for look in looks]
    assert [steps for steps, _, _ in kept] == [0, 10, 20]
    assert min(loss for _, loss, _ in kept[1:]) < kept[0][1]
    first, last = kept[0][2], kept[-1][2]
    assert {one.dtype for one in last.values()} == {torch.bfloat16}
    assert first.keys() == last.keys() == {name for name, _ in evaluator.model(family / "red").model.named_parameters()}
