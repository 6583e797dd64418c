"""Proposals on families whose answers are known functions of the recipe: what is proposed, chosen, to be gained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from src.surrogate.objectives import average, worst
from src.surrogate.process import Process, fit
from src.surrogate.proposals import Climb, choose, gain, propose
from src.surrogate.questions import Questions
from src.surrogate.scoring import Scorer
from src.surrogate.space import Space

DIRECTIONS, BLOCKS, ASKED, CHOICES = 3, 2, 120, 4


@dataclass(frozen=True)
class Family:
    """Models that answer a question of two tasks rightly the nearer they are to its own recipe, around its task's."""

    space: Space
    questions: Questions

    def answers(self, recipes: np.ndarray) -> np.ndarray:
        """Centred log-likelihoods [E, A]."""
        rng = np.random.default_rng(3)
        goals = np.array([0.9, 0.5])[self.questions.task, None, None] + 0.3 * rng.normal(
            size=(ASKED, *self.space.shape)
        )
        far = ((recipes[:, None] - goals) ** 2).sum((2, 3))  # [E, Q]
        gold = np.eye(CHOICES)[self.questions.gold]
        answers = (2.0 - 0.8 * far + rng.normal(size=ASKED))[:, :, None] * gold + 0.3 * rng.normal(
            size=(ASKED, CHOICES)
        )
        return self.questions.centred(answers.reshape(len(recipes), -1))

    def scores(self, recipes: np.ndarray) -> np.ndarray:
        """The share of right answers, the mean of both tasks, [E]."""
        return EVEN(Scorer(self.questions).found(torch.from_numpy(self.answers(recipes)))).numpy()


def family() -> Family:
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(BLOCKS, DIRECTIONS, 40))
    names = tuple(f"f{i}" for i in range(DIRECTIONS)), tuple(f"b{i}" for i in range(BLOCKS))
    ids = tuple(("t", place) for place in range(ASKED))
    choices, gold = np.full(ASKED, CHOICES), rng.integers(0, CHOICES, ASKED)
    first, weight = np.arange(ASKED) * CHOICES, np.full(ASKED, 2 / ASKED)
    questions = Questions(("a", "b"), np.arange(ASKED) % 2, weight, first, choices, gold, ids)
    return Family(Space(*names, deltas @ deltas.transpose(0, 2, 1)), questions)


GOAL = np.full((DIRECTIONS, BLOCKS), 0.7)


def start(space: Space) -> np.ndarray:
    """The base, the founders and the mean of these."""
    directions, blocks = space.shape
    weights = np.stack([np.zeros(directions), *np.eye(directions), np.full(directions, 1 / directions)])
    return weights[:, :, None].repeat(blocks, 2)


def fitted(given: Family, recipes: np.ndarray, known: np.ndarray | None = None) -> Process:
    answers = given.answers(recipes)
    return fit(given.space, recipes, answers if known is None else np.where(known, answers, np.nan))


EVEN = average([1, 1])
CLIMB = Climb(radius=0.4, curiosity=1.0, starts=4, steps=20, rate=0.06)


def test_a_search_gets_near_the_best_recipe_in_a_few_evaluations() -> None:
    given, scorer = family(), Scorer(family().questions)
    recipes = start(given.space)
    for _ in range(10):
        process = fitted(given, recipes)
        centre = choose(process, scorer, EVEN)
        (found,) = propose(process, scorer, EVEN, CLIMB, centre=centre, seed=len(recipes))
        recipes = np.concatenate([recipes, found.recipe[None]])
    scores, best = given.scores(recipes), given.scores(GOAL[None])[0]
    assert scores[:5].max() < best - 0.2
    assert scores.max() > best - 0.08
    process = fitted(given, recipes)
    assert scores[choose(process, scorer, EVEN)] > best - 0.1
    again = gain(process, scorer, EVEN, CLIMB, centre=choose(process, scorer, EVEN))
    early = fitted(given, start(given.space))
    assert again < 0.25 * gain(early, scorer, EVEN, CLIMB, centre=choose(early, scorer, EVEN))


def test_proposals_keep_the_bounds_and_the_trust_region() -> None:
    given, scorer = family(), Scorer(family().questions)
    process = fitted(given, start(given.space))
    climb = replace(CLIMB, radius=0.3, low=0.1, high=0.6)
    for found in propose(process, scorer, EVEN, climb, centre=1, seed=0, count=3):
        assert ((found.recipe >= 0.1 - 1e-12) & (found.recipe <= 0.6 + 1e-12)).all()
        middle = torch.from_numpy(start(given.space)[1].clip(0.1, 0.6))[None]
        assert given.space.distances(torch.from_numpy(found.recipe)[None], middle).item() <= 0.3 + 1e-9


@pytest.mark.parametrize("curiosity", [0.0, 2.0])
def test_several_proposals_are_new_and_apart(curiosity: float) -> None:
    given, scorer = family(), Scorer(family().questions)
    process = fitted(given, start(given.space))
    climb = replace(CLIMB, curiosity=curiosity)
    found = propose(process, scorer, EVEN, climb, centre=0, seed=0, count=4)
    every = torch.cat([torch.from_numpy(np.stack([one.recipe for one in found])), process.recipes])
    apart = given.space.distances(every, every) + 10 * torch.eye(len(every))
    assert apart[:4].min() >= climb.apart * climb.radius - 1e-9
    again = propose(process, scorer, EVEN, climb, centre=0, seed=0, count=4)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.recipe, other.recipe)
    np.testing.assert_array_equal(found[0].recipe, propose(process, scorer, EVEN, climb, centre=0, seed=0)[0].recipe)


def test_the_more_of_several_proposals_the_more_is_known_after_them() -> None:
    """Told of each other they leave less unknown around the centre than the first one alone, asked as often."""
    given, scorer = family(), Scorer(family().questions)
    process = fitted(given, start(given.space))
    climb = replace(CLIMB, curiosity=3.0)
    found = propose(process, scorer, EVEN, climb, centre=0, seed=0, count=4)
    around = torch.from_numpy(0.2 * np.random.default_rng(0).normal(size=(40, DIRECTIONS, BLOCKS)))
    together = process.told(torch.from_numpy(np.stack([one.recipe for one in found])))
    alone = process.told(torch.from_numpy(np.stack([found[0].recipe] * 4)))
    assert together.spread(around).mean() < 0.95 * alone.spread(around).mean()


def test_the_winner_is_not_the_luckiest() -> None:
    """Of many models with the same recipe one scored best by chance; a neighbourhood of good ones is worth more."""
    given, scorer = family(), Scorer(family().questions)
    near = np.clip(GOAL + 0.02 * np.random.default_rng(0).normal(size=(6, DIRECTIONS, BLOCKS)), 0, 1)
    recipes = np.concatenate([start(given.space), near])
    answers = given.answers(recipes)
    lucky = answers.copy()
    gold = given.questions.first + given.questions.gold
    lucky[0, gold] += 50 * (np.arange(ASKED) % 20 == 0)  # the base happens to know some answers
    process = fit(given.space, recipes, lucky)
    assert choose(process, scorer, EVEN) >= 5


def test_other_objectives_lead_elsewhere() -> None:
    given, scorer = family(), Scorer(family().questions)
    recipes = np.concatenate(
        [start(given.space), np.random.default_rng(0).uniform(0, 1, size=(20, DIRECTIONS, BLOCKS))]
    )
    process = fitted(given, recipes)
    climb = replace(CLIMB, radius=2.0, curiosity=0.0)
    found = {}
    for name, objective in (("a", average([1, 0])), ("b", average([0, 1])), ("worst", worst())):
        (one,) = propose(process, scorer, objective, climb, centre=choose(process, scorer, objective), seed=0)
        found[name] = one.recipe.mean()
    assert found["b"] < found["worst"] < found["a"]


@pytest.mark.parametrize("models", [1, 2])
def test_with_next_to_nothing_known_something_is_proposed(models: int) -> None:
    given, scorer = family(), Scorer(family().questions)
    process = fitted(given, start(given.space)[:models])
    found = propose(process, scorer, EVEN, CLIMB, centre=0, seed=0, count=2)
    for one in found:
        assert np.isfinite(one.recipe).all()
        assert np.isfinite([one.low, one.expected, one.high]).all()
    assert np.isfinite(gain(process, scorer, EVEN, CLIMB, centre=0))


def test_directions_of_no_length_are_no_obstacle() -> None:
    given, scorer = family(), Scorer(family().questions)
    flat = Space(given.space.directions, given.space.blocks, np.zeros_like(given.space.grams))
    process = fit(flat, start(flat), given.answers(start(flat)))
    assert len(propose(process, scorer, EVEN, CLIMB, centre=0, seed=0, count=2)) == 2
