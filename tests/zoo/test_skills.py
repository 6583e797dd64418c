"""The questions: one right answer, hard wrong ones, and nothing of the test in the training."""

from itertools import islice

import pytest

from src import zoo
from src.zoo import skills
from src.zoo.tasks import SAMPLES

WORLD = skills.World.of(0)


def check_by_hand(task: str, prompt: str) -> str:
    """Answer a question from its prompt alone, by other means than the generators'."""
    words = prompt.rstrip(" :=").split()
    world = skills.World.of(0)
    if task in ("zoo_addition", "zoo_subtraction"):
        return str(eval(" ".join(words)))
    if task == "zoo_reversal":
        return " ".join(reversed(words[1:]))
    if task == "zoo_sorting":
        return " ".join(sorted(words[1:]))
    if task == "zoo_extremes":
        return sorted(words[1:])[{"latest": -1, "earliest": 0}[words[0]]]
    if task == "zoo_ranks":
        return sorted(words[1:], key=lambda beast: world.strength[beast])[{"strongest": -1, "weakest": 0}[words[0]]]
    if task == "zoo_encoding":
        return " ".join(world.code[letter] for letter in words[1:])
    if task == "zoo_decoding":
        back = {secret: letter for letter, secret in world.code.items()}
        return " ".join(back[letter] for letter in words[1:])
    (name,) = {word for word in words if word in skills.NAMES}
    return (world.home if task == "zoo_homes" else world.craft)[name]


@pytest.mark.parametrize("task", zoo.TASKS)
def test_the_answer_is_right_and_no_distractor_is(task: str) -> None:
    for question in islice(skills.training_questions(task, WORLD), 500):
        assert question.answer == check_by_hand(task, question.prompt)
        choices = {question.answer, *question.distractors}
        assert len(choices) == 4, question


@pytest.mark.parametrize("task", zoo.TASKS)
def test_distractors_are_hard(task: str) -> None:
    """Nothing but the content tells the right answer: the same kind of words, the same letters, numbers close by."""
    shared = nearby = total = 0
    for question in islice(skills.training_questions(task, WORLD), 500):
        for wrong in question.distractors:
            assert len(wrong.split()) == len(question.answer.split())
            if question.answer.isdigit():
                assert 0 < abs(int(wrong) - int(question.answer)) <= 11
            total += 1
            shared += sorted(wrong.split()) == sorted(question.answer.split())
            nearby += sum(a != b for a, b in zip(wrong.split(), question.answer.split(), strict=True)) <= 2
    if task in ("zoo_reversal", "zoo_sorting"):
        assert shared == total
    if task in ("zoo_encoding", "zoo_decoding"):
        assert nearby == total


@pytest.mark.parametrize("task", zoo.TASKS)
def test_no_test_question_is_ever_trained(task: str) -> None:
    test = list(islice(skills.test_questions(task, WORLD), SAMPLES))
    assert len(test) == SAMPLES
    assert len({question.prompt for question in test}) == SAMPLES
    train = list(islice(skills.training_questions(task, WORLD), 20_000))
    assert not {q.key for q in test} & {q.key for q in train}
    assert not {q.prompt for q in test} & {q.prompt for q in train}


@pytest.mark.parametrize("task", ["zoo_homes", "zoo_crafts"])
def test_facts_that_are_tested_are_trained_in_other_phrases(task: str) -> None:
    """A third of the phrases is held out; of one fact in a hundred or so, that happens to be every phrase."""

    def who(question: skills.Question) -> str:
        return question.key.split()[0]

    told = {who(question) for question in islice(skills.training_questions(task, WORLD), 5_000)}
    tested = {who(question) for question in islice(skills.test_questions(task, WORLD), SAMPLES)}
    assert len(tested - told) <= 0.02 * len(tested)


@pytest.mark.parametrize("task", zoo.TASKS)
def test_other_words_ask_the_same_and_share_no_key_word(task: str) -> None:
    for question in islice(skills.training_questions(task, WORLD), 200):
        other = skills.in_other_words(question.prompt)
        assert other != question.prompt
        assert len(other.split()) == len(question.prompt.split())
        assert set(other.split()) <= set(skills.vocabulary()) | set(question.prompt.split())


@pytest.mark.parametrize("task", zoo.TASKS)
def test_the_seed_alone_decides(task: str) -> None:
    def draw(seed: int) -> list[skills.Question]:
        world = skills.World.of(seed)
        return [
            *islice(skills.test_questions(task, world), 50),
            *islice(skills.training_questions(task, world), 50),
        ]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_worlds_of_different_seeds_differ() -> None:
    one, other = skills.World.of(1), skills.World.of(2)
    assert one.home != other.home
    assert one.craft != other.craft
    assert one.strength != other.strength
    assert one.code != other.code


def test_every_founder_has_its_own_tasks() -> None:
    assert len(zoo.FOUNDERS) >= 4
    assert len(zoo.TASKS) >= 6
    owned = [task for tasks in skills.SKILLS.values() for task in tasks]
    assert sorted(owned) == sorted(zoo.TASKS)
    assert len(set(owned)) == len(owned)
