"""What is learned from, and the gradient by a recipe's weights: against finite differences, in float64."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.evaluation.evaluator import Evaluator
from src.evaluation.model import ReusableModel
from src.learning.forecast import memory
from src.learning.gradient import Room, Stored, WeightedSum, recomputed
from src.learning.passes import Passes
from src.learning.samples import Division, Sample, by_question, loss_values, losses, samples
from src.runtime.errors import UserError
from src.strategy.recipe_gradient import Loss
from src.strategy.recipes import Blocks
from src.strategy.recipes import FineDivision as Blocked
from tests.family import SAMPLES, TASKS
from tests.strategy.test_recipes import geometry
from tests.test_answers import line, plain_task
from tests.test_evaluate import asked
from tests.test_evaluate import tasks as tasks  # the fixture

DIRECTIONS = ("red", "green", "blue")


def model_of(folder: Path, evaluator: Evaluator) -> ReusableModel:
    model = evaluator.model(folder)
    model.model.double()
    for module in model.model.modules():
        if "RMSNorm" in type(module).__name__:  # which transformers computes in float32, whatever the weights are
            module.forward = partial(exact_norm, module)
    return model


def exact_norm(norm: Any, states: torch.Tensor) -> torch.Tensor:
    return norm.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)


def total_of(family: Path, division: Blocked) -> tuple[WeightedSum, int]:
    base = Stored(family / "base")
    blocks = Blocks.of(division, geometry(sorted(base)))
    members = dict(zip(sorted(base), blocks.members, strict=True))
    return WeightedSum(base, [Stored(family / name) for name in DIRECTIONS], members), len(blocks.names)


@pytest.mark.parametrize("blocks", ["whole", "part", "layer", "tensor"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_the_gradient_by_weights_is_that_of_finite_differences(
    family: Path, tasks: Path, blocks: Blocked, checkpointing: bool
) -> None:
    """Over choices weighed by their lengths, targets that are generated, told and rolled, in parts of the batch."""
    names: Any = [{"name": TASKS[0], "metric": "acc_norm"}, TASKS[1]]
    evaluator = Evaluator(asked(names, family / "tasks"), seed=0)
    others = Evaluator(asked(["generated", "told", "rolled"], tasks), seed=0)
    batch = samples(evaluator, "choice")[0][::12] + samples(others, "choice")[0][::10]
    assert len(batch) == 10
    model = model_of(family / "red", evaluator)
    total, size = total_of(family, blocks)
    weights = np.random.default_rng(1).uniform(0.2, 0.6, (len(DIRECTIONS), size))

    def loss_at(at: np.ndarray) -> float:
        total.write(model.model, at)
        with torch.no_grad():
            return float(losses(model, batch).sum())

    total.write(model.model, weights)
    parts = [[(one, 1.0) for one in part] for part in (batch[:4], batch[4:])]
    passes = Passes(model, total, by_question(batch), checkpointing)
    first, second = passes.gradients("loss", weights, parts)
    loss, gradient = first[0] + second[0], first[1] + second[1]
    assert loss == pytest.approx(loss_at(weights), rel=1e-9)
    assert all(weight.grad is None for weight in model.model.parameters())
    assert not any(one.training for one in model.model.modules())
    draw = np.random.default_rng(2)
    for place in {*map(tuple, draw.integers(0, gradient.shape, (6, 2)).tolist())}:
        step = np.zeros_like(weights)
        step[place] = 1e-5
        expected = (loss_at(weights + step) - loss_at(weights - step)) / 2e-5
        assert gradient[place] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_sum_is_what_mergekit_makes_of_the_weights(family: Path) -> None:
    evaluator = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)
    model = evaluator.model(family / "red")
    total, size = total_of(family, "tensor")
    weights = np.random.default_rng(1).uniform(-0.5, 1.5, (len(DIRECTIONS), size))
    total.write(model.model, weights)
    base, others = Stored(family / "base"), [Stored(family / name) for name in DIRECTIONS]
    for name, weight in model.model.named_parameters():
        factors = weights[:, total.blocks[name]]
        wanted = base[name] + sum(c * (one[name] - base[name]) for c, one in zip(factors, others, strict=True))
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(Stored(family / "red")["model.norm.weight"], others[0]["model.norm.weight"])


def test_a_loss_is_the_cross_entropy_of_the_evaluations_own_answers(family: Path) -> None:
    names: Any = [{"name": TASKS[0], "metric": "acc_norm"}, TASKS[1]]
    evaluator = Evaluator(asked(names, family / "tasks"), seed=0)
    answers = evaluator.evaluate(family / "green").answers
    assert answers is not None
    values, gold = torch.from_numpy(answers.values.reshape(-1, 4)), torch.from_numpy(answers.questions.gold)
    expected = torch.nn.functional.cross_entropy(values, gold, reduction="none")
    found, weights = samples(evaluator, "choice")
    model = evaluator.model(family / "green")
    with torch.no_grad():
        torch.testing.assert_close(losses(model, found), expected, atol=1e-4, rtol=1e-4)
    assert weights == {TASKS[0]: 0.5, TASKS[1]: 0.5}
    targets = {one: torch.softmax(row, 0).numpy() for one, row in zip(answers.questions.ids, values, strict=True)}
    agreed, _ = samples(evaluator, "agreement", targets)
    with torch.no_grad():
        assert losses(model, agreed).abs().max() < 1e-5  # the model agrees with itself
    unlabelled, _ = samples(evaluator, "entropy")
    with torch.no_grad():
        entropies = torch.distributions.Categorical(logits=values.float()).entropy()
        torch.testing.assert_close(losses(model, unlabelled), entropies, atol=1e-4, rtol=1e-4)


def test_the_loss_of_a_right_answer_is_its_likelihood_by_token(family: Path) -> None:
    evaluator = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)
    answers = evaluator.evaluate(family / "green").answers
    assert answers is not None
    right = answers.values.reshape(-1, 4)[np.arange(2 * SAMPLES), answers.questions.gold]
    found, _ = samples(evaluator, "target")
    model = evaluator.model(family / "green")
    tokens = [len(said) for _, said in model.encode([one.requests[0] for one in found])]
    with torch.no_grad():
        assert losses(model, found).tolist() == pytest.approx((-right / tokens).tolist(), rel=1e-4)


def test_a_target_that_is_generated_is_what_the_task_says(family: Path, tasks: Path) -> None:
    evaluator = Evaluator(asked(["generated"], tasks), seed=0)
    found, _ = samples(evaluator, "choice")
    documents = [json.loads(text) for text in (tasks / "data.jsonl").read_text().splitlines()]
    assert [one.requests[0].args for one in found] == [(f"{d['question']}?", f" {d['answer']}") for d in documents]


@pytest.mark.parametrize("loss", ["agreement", "entropy"])
def test_what_needs_no_labels_leaves_out_what_has_no_choices(family: Path, tasks: Path, loss: Loss) -> None:
    told = Evaluator(asked(["generated", "told"], tasks), seed=0)
    with pytest.raises(UserError, match=f"strategy.objective_loss={loss} learns from questions with several choices"):
        samples(told, loss)
    _, weights = samples(Evaluator(asked([TASKS[0]], family / "tasks"), seed=0), loss)
    assert weights == {TASKS[0]: 1.0}


@pytest.mark.parametrize("metric", ["acc_mutual_info", "exact_match"])
def test_a_metric_that_gives_no_gradient_is_refused(family: Path, tmp_path: Path, metric: str) -> None:
    lines = [line(i % 2, "a", "b") for i in range(4)]
    name = plain_task(tmp_path, "odd", lines, metric_list=[{"metric": metric}])
    with pytest.raises(UserError, match=r"task odd: strategy.name=recipe_gradient learns which of several choices"):
        samples(Evaluator(asked([name], tmp_path), seed=0), "choice")


def divided(evaluator: Evaluator, **changes: Any) -> tuple[Division, list[Sample]]:
    found, weights = samples(evaluator, "choice")
    return Division.of(found, weights, **{"share": 0.25, "most": None, "seed": 0, **changes}), found


def test_samples_are_learned_from_or_kept_back_and_drawn_as_their_tasks_count(family: Path) -> None:
    chosen: Any = [{"name": TASKS[0], "weight": 3}, TASKS[1]]
    evaluator = Evaluator(asked(chosen, family / "tasks"), seed=0)
    division, found = divided(evaluator)
    learned, kept = ([one for some in side.values() for one in some] for side in (division.learned, division.kept))
    assert len(kept) == SAMPLES // 2
    assert {id(one) for one in learned} ^ {id(one) for one in kept} == {id(one) for one in found}
    batches = division.batches(8, seed=1)
    drawn = [next(batches) for _ in range(9)]
    assert all(sum(one.task == TASKS[0] for one in batch) == 6 for batch in drawn)
    first = [one.document for batch in drawn for one in batch if one.task == TASKS[0]][: SAMPLES * 3 // 4]
    assert len(set(first)) == len(first)  # none a second time before all others
    again, _ = divided(Evaluator(asked(chosen, family / "tasks"), seed=0))
    assert [one.document for one in next(again.batches(8, seed=1))] == [one.document for one in drawn[0]]
    other, _ = divided(evaluator, seed=1)
    assert {one.document for one in other.kept[TASKS[0]]} != {one.document for one in division.kept[TASKS[0]]}
    few, _ = divided(evaluator, most=3)
    assert {len(few.learned[name]) for name in TASKS} == {2}
    assert few.kept_count == 2


def test_what_is_kept_back_counts_by_task(family: Path) -> None:
    evaluator = Evaluator(asked([{"name": TASKS[0], "weight": 3}, TASKS[1]], family / "tasks"), seed=0)  # type: ignore[list-item]
    division, _ = divided(evaluator)
    model = evaluator.model(family / "red")
    with torch.no_grad():
        first, second = (float(losses(model, division.kept[name]).mean()) for name in TASKS)
    found = division.kept_back_loss(lambda parts: [loss_values(model, part) for part in parts], 5)
    assert found == pytest.approx(0.75 * first + 0.25 * second, rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_the_memory_of_a_step_is_what_was_forecast(family: Path, checkpointing: bool) -> None:
    """What autograd keeps, counted by storage: all, or with checkpointing what a forward pass keeps."""
    evaluator = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)
    model, config = evaluator.model(family / "red"), json.loads((family / "red/config.json").read_text())
    batch = samples(evaluator, "choice")[0]
    kept: dict[int, int] = {}
    owned = {weight.untyped_storage().data_ptr() for weight in model.model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with recomputed(model.model, checkpointing), torch.autograd.graph.saved_tensors_hooks(count, lambda one: one):
        loss = losses(model, batch).sum()
    tokens, _ = model.batch(model.encode([one for sample in batch for one in sample.requests]))
    rows, width = tokens.tokens.shape
    takes = memory(
        config,
        {name: one.shape for name, one in model.model.named_parameters()},
        4,
        rows=rows,
        width=width,
        columns=len(torch.unique(tokens.columns)),
        checkpointing=checkpointing,
    )
    assert takes is not None
    assert loss.requires_grad
    assert sum(kept.values()) < takes.activations
    assert checkpointing or takes.activations < 2.5 * sum(kept.values())
    assert memory({}, {}, 4, rows=1, width=1, columns=1, checkpointing=False) is None


def test_a_model_whose_weights_have_other_names_than_on_disk_is_refused(family: Path) -> None:
    total, _ = total_of(family, "whole")
    with pytest.raises(UserError, match=r"weight is .* in the loaded model, None in the base's files"):
        total.check(torch.nn.Linear(2, 2))


def test_directions_are_kept_where_there_is_room_until_a_pass_needs_it(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same derivatives with no room, with room for some tensors, and after a pass was short of memory."""
    evaluator = Evaluator(asked(list(TASKS), family / "tasks"), seed=0)
    batch = samples(evaluator, "choice")[0][::6]
    model = evaluator.model(family / "red")
    blocks, size = total_of(family, "tensor")
    weights = np.random.default_rng(1).uniform(0.2, 0.6, (len(DIRECTIONS), size))
    part = [[(one, 1.0) for one in batch]]

    def passes(room: Room) -> Passes:
        total = WeightedSum(
            Stored(family / "base", room), [Stored(family / name, room) for name in DIRECTIONS], blocks.blocks
        )
        return Passes(model, total, by_question(batch), room=room)

    [(loss, expected)] = passes(Room()).gradients("loss", weights, part)
    room = Room()
    room.left = 40_000
    roomy = passes(room)
    for _ in range(2):
        [(again, found)] = roomy.gradients("loss", weights, part)
        assert (again, found.tolist()) == (loss, expected.tolist())
    kept = [one for place in room._kept for one in place.values()]
    assert 0 < room.left < 40_000
    assert sum(one.nbytes for one in kept) == 40_000 - room.left
    gradient = WeightedSum.gradient
    short = iter([True, False])

    def once_short(self: WeightedSum, *rest: Any) -> Any:
        found = gradient(self, *rest)
        if next(short):
            raise torch.OutOfMemoryError("out of memory")
        return found

    monkeypatch.setattr(WeightedSum, "gradient", once_short)
    [(again, found)] = roomy.gradients("loss", weights, part)
    assert (again, found.tolist()) == (loss, expected.tolist())
    assert not any(room._kept)
    assert room.left == 0
    short = iter([True])
    with pytest.raises(torch.OutOfMemoryError):  # nothing is kept that could make room
        roomy.gradients("loss", weights, part)
