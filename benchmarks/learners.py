"""What learns from the same samples, look by look at what is kept back: a recipe, all weights, or a LoRA.

Each starts from a loaded model and is a sequence that ends when its steps do; whoever reads it may stop before.
Fine-tuning a bf16 checkpoint is mixed precision, as a trainer does it: what is learned is kept in float32 (a step of
AdamW is about half the distance between two bf16 numbers of a weight's size, and would often be rounded away), the
products are in bf16. A recipe needs nothing of the kind: its weights are float64, and every sum is made anew of the
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from src.evaluation.model import ReusableModel
    from src.learning.samples import Division
    from src.strategy.recipe_gradient import RecipeGradient

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What a LoRA adapts: all linear weights within the layers."""


@dataclass(frozen=True)
class Look:
    """What is learned after some gradient steps."""

    steps: int
    kept_back: float
    """The loss on the samples that are kept back."""
    tensors: Callable[[], dict[str, torch.Tensor]]
    """Returns the weights by the names that they have on disk. They may be the learner's own, which the next step
    changes."""


def recipe(
    model: ReusableModel,
    division: Division,
    how: RecipeGradient,
    base: Path,
    directions: Mapping[str, Path],
    start: str | float,
) -> Iterator[Look]:
    """Learn the weights of directions by block.

    Args:
        model: what is given their sum, and asked.
        division: the samples.
        how: the strategy's settings.
        base: folder of the base.
        directions: folders by name.
        start: the direction that alone is started from, or the weight of each.
    """
    import numpy as np

    from src import kinship
    from src.learning.gradient import Stored, WeightedSum
    from src.learning.passes import Passes
    from src.learning.samples import by_question
    from src.learning.training import Course, Training
    from src.models.checkpoint import open_checkpoint
    from src.strategy.recipe_gradient import Lesson
    from src.strategy.recipes import Blocks

    names = tuple(directions)
    geometry = kinship.measure(open_checkpoint(base), {name: open_checkpoint(directions[name]) for name in names})
    blocks = Blocks.of(how.blocks, geometry)
    members = {one.name: block for one, block in zip(geometry.tensors, blocks.members, strict=True)}
    weights = np.zeros((len(names), len(blocks.names)))
    weights[:] = np.array([[name == start if isinstance(start, str) else start] for name in names])
    grams = blocks.grams(geometry, names)
    metric = grams / np.trace(grams.sum(axis=0)) * len(names)
    total = WeightedSum(Stored(base), [Stored(folder) for folder in directions.values()], members)
    known = by_question(one for side in (division.learned, division.kept) for some in side.values() for one in some)
    passes = Passes(model, total, known, how.checkpointing)
    training = Training(Lesson(names, members, weights, metric, how), passes, division)
    course = Course()
    while course.steps < how.total:
        course = training.go_on(course)  # which leaves the model with the weights that it looked at
        yield Look(course.looks[-1].steps, course.looks[-1].kept_back, lambda: parameters(model))


def fine_tuned(model: ReusableModel, division: Division, how: RecipeGradient, rank: int | None) -> Iterator[Look]:
    """Fine-tune all weights, or a LoRA where there is a rank, as an expert would.

    Args:
        model: what is started from.
        division: the samples.
        how: rate, batches and steps.
        rank: of the LoRA; None: all weights are learned.
    """
    import peft
    import torch

    from src.learning.samples import loss_values, losses
    from src.learning.training import scheduled

    loaded = model.model
    native = loaded.dtype
    torch.manual_seed(how.seed)
    if rank is None:
        loaded.float()
    else:
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR)
        peft.inject_adapter_in_model(config, loaded)
    learned = [one for one in loaded.parameters() if one.requires_grad]
    for one in learned:
        one.data = one.data.float()
    optimiser = torch.optim.AdamW([{"params": learned, "initial_lr": how.rate}], lr=how.rate, weight_decay=0.01)
    schedule = scheduled(how, optimiser, 0)
    mixed = partial(torch.autocast, model.device.type, torch.bfloat16, enabled=native == torch.bfloat16)

    def look(step: int) -> Look:
        with mixed():
            kept_back = division.kept_back_loss(lambda parts: [loss_values(model, one) for one in parts], how.at_once)
        return Look(step, kept_back, lambda: parameters(model, native))

    yield look(0)
    for step, batch in zip(range(1, how.total + 1), division.batches(how.batch, how.seed), strict=False):
        with mixed():
            loss = losses(model, batch).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % how.steps == 0:
            yield look(step)


def parameters(model: ReusableModel, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Return a model's weights, with its LoRA added if there is one, rounded to a dtype once."""
    found = {
        name.replace(".base_layer", ""): one.detach()
        for name, one in model.model.named_parameters()
        if "lora_" not in name
    }
    for name, layer in model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = found[f"{name}.weight"]
            found[f"{name}.weight"] = layer.get_delta_weight("default").detach() + weight.float()
    return {name: one.to(dtype or one.dtype) for name, one in found.items()}
