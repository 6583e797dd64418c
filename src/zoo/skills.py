"""What the embedded family learns: questions with one right answer and three hard wrong ones, drawn from a seed.

A task is a function from a random generator and a world to a `Question`. Each founder of the family owns two tasks
(`SKILLS`). A question is either a test question or a training question, for ever: `held_out` decides it from the
question's key alone, so that no test question can be met in training, however many are drawn.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

LETTERS = "abcdefghjkmnpqrstuvwxyz"
HEADS = ("Ba", "Do", "Fi", "Ga", "Ju", "Ka", "Le", "Mo", "Na", "Ri", "So", "Tu")
TAILS = ("bo", "dan", "lin", "mar", "nok", "rel", "sto", "tha", "vin", "zek")
NAMES = tuple(head + tail for head in HEADS for tail in TAILS)
TOWNS = ("Ashby", "Brill", "Corve", "Dunmor", "Eskel", "Farne", "Gorsk", "Holm", "Ister", "Kelp", "Lorn", "Myre")
CRAFTS = (
    "baker",
    "cook",
    "dyer",
    "farmer",
    "hunter",
    "joiner",
    "mason",
    "miner",
    "potter",
    "smith",
    "tailor",
    "weaver",
)
PHRASES = {
    "home": ("{} lives in", "home of {} :", "where does {} live ?", "{} has a house in", "town of {} :", "{} is from"),
    "craft": ("{} works as", "craft of {} :", "what does {} do ?", "{} has work as", "trade of {} :", "{} is a"),
}
HELD_OUT = {"zoo_homes": 3, "zoo_crafts": 3}  # one question in so many is kept for the test
HELD_OUT_ELSEWHERE = 8


@dataclass(frozen=True)
class Question:
    """One question: the right answer, and three wrong ones that differ from it and from each other.

    `key` is the question without its wording's accidents (47 + 38 and 38 + 47 have the same): questions of the same
    key are all in the training data or all in the test, never in both.
    """

    prompt: str
    answer: str
    distractors: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class World:
    """The small world of facts of one seed: where everybody lives, and what everybody does."""

    seed: int
    home: dict[str, str]
    craft: dict[str, str]

    @classmethod
    def of(cls, seed: int) -> "World":
        """Draw the world of a seed; the same seed draws the same world on every machine."""
        rng = random.Random(f"world {seed}")
        return cls(seed, {n: rng.choice(TOWNS) for n in NAMES}, {n: rng.choice(CRAFTS) for n in NAMES})


Draw = Callable[[random.Random, World], Question]


def _number(
    rng: random.Random, prompt: str, value: int, key: str, steps: tuple[int, ...] = (1, 2, 9, 10, 11)
) -> Question:
    """A question about a number, with near misses: off by one or two, by a carry, or by both."""
    near = sorted({value + sign * step for step in steps for sign in (-1, 1)} - {value})
    wrong = rng.sample([n for n in near if n >= 0], 3)
    return Question(prompt, str(value), tuple(map(str, wrong)), key)


def addition(rng: random.Random, world: World) -> Question:
    """47 + 38 = 85; both numbers below 100."""
    a, b = rng.randrange(2, 100), rng.randrange(2, 100)
    return _number(rng, f"{a} + {b} =", a + b, f"{min(a, b)} {max(a, b)}")


def subtraction(rng: random.Random, world: World) -> Question:
    """83 - 47 = 36; never below zero."""
    a, b = sorted((rng.randrange(2, 100), rng.randrange(2, 100)))
    return _number(rng, f"{b} - {a} =", b - a, f"{b} {a}")


def _arranged(rng: random.Random, prompt: str, right: list[str], key: str) -> Question:
    """A question whose answer is an order of letters, with wrong orders that differ from it by one or two exchanges."""
    wrong: list[list[str]] = []
    while len(wrong) < 3:
        order = list(right)
        for _ in range(rng.choice((1, 1, 2))):
            i, j = rng.sample(range(len(order)), 2)
            order[i], order[j] = order[j], order[i]
        if order != right and order not in wrong:
            wrong.append(order)
    return Question(prompt, " ".join(right), tuple(" ".join(order) for order in wrong), key)


def reversal(rng: random.Random, world: World) -> Question:
    """Reverse k d p a : a p d k; four to six different letters."""
    letters = rng.sample(LETTERS, rng.randrange(4, 7))
    return _arranged(rng, f"reverse {' '.join(letters)} :", letters[::-1], "".join(letters))


def sorting(rng: random.Random, world: World) -> Question:
    """Sort k d p a : a d k p; four to six different letters. One order of the same letters gives away the others."""
    letters = rng.sample(LETTERS, rng.randrange(4, 7))
    return _arranged(rng, f"sort {' '.join(letters)} :", sorted(letters), "".join(sorted(letters)))


def _fact(rng: random.Random, kind: str, facts: dict[str, str], values: tuple[str, ...]) -> Question:
    """A fact about somebody. The fact is trained in other phrases than the one that the test asks in."""
    name, phrase = rng.choice(NAMES), rng.randrange(len(PHRASES[kind]))
    wrong = rng.sample([value for value in values if value != facts[name]], 3)
    return Question(PHRASES[kind][phrase].format(name), facts[name], tuple(wrong), f"{name} {phrase}")


def homes(rng: random.Random, world: World) -> Question:
    """Where does Kalin live ? Farne."""
    return _fact(rng, "home", world.home, TOWNS)


def crafts(rng: random.Random, world: World) -> Question:
    """What does Kalin do ? mason."""
    return _fact(rng, "craft", world.craft, CRAFTS)


def extremes(rng: random.Random, world: World) -> Question:
    """Largest 72 81 78 65 : 81; numbers of two digits, some sets of them close together."""
    near = rng.choice((8, 20, 70))
    low = rng.randrange(10, 100 - near)
    numbers = rng.sample(range(low, low + near), 4)
    word, right = rng.choice((("largest", max(numbers)), ("smallest", min(numbers))))
    wrong = tuple(str(n) for n in numbers if n != right)
    key = f"{word} {sorted(numbers)}"
    return Question(f"{word} {' '.join(map(str, numbers))} :", str(right), wrong, key)


def ordering(rng: random.Random, world: World) -> Question:
    """K > d , a > k , d > p first : a; a chain of four letters, told in any order."""
    chain = rng.sample(LETTERS, 4)
    links = [f"{a} > {b}" for a, b in pairwise(chain)]
    rng.shuffle(links)
    place = rng.randrange(4)
    word = ("first", "second", "third", "last")[place]
    wrong = tuple(c for c in chain if c != chain[place])
    return Question(f"{' , '.join(links)} {word} :", chain[place], wrong, f"{''.join(chain)} {word}")


def series(rng: random.Random, world: World) -> Question:
    """Next 13 20 27 34 : 41; steps of 1 to 12, up or down."""
    step, start = rng.randrange(1, 13), rng.randrange(0, 100)
    numbers = [start + step * i for i in range(5)]
    if rng.random() < 0.5:
        numbers.reverse()
    prompt = f"next {' '.join(map(str, numbers[:4]))} :"
    return _number(rng, prompt, numbers[4], f"{numbers[0]} {numbers[1]}", (1, 2, 3, 10))


def cycles(rng: random.Random, world: World) -> Question:
    """Go on k d a k d a k : d; a row of letters that comes round every two to five."""
    letters = rng.sample(LETTERS, 8)
    period, length = rng.randrange(2, 6), rng.randrange(6, 10)
    row = [letters[i % period] for i in range(length)]
    right = letters[length % period]
    wrong = tuple(letter for letter in letters if letter != right)[:3]
    return Question(f"go on {' '.join(row)} :", right, wrong, " ".join(row))


# Which founder owns which tasks. A founder is trained mostly on its own two; the base on all of them.
SKILLS: dict[str, dict[str, Draw]] = {
    "arithmetic": {"zoo_addition": addition, "zoo_subtraction": subtraction},
    "strings": {"zoo_reversal": reversal, "zoo_sorting": sorting},
    "facts": {"zoo_homes": homes, "zoo_crafts": crafts},
    "logic": {"zoo_extremes": extremes, "zoo_ordering": ordering},
    "patterns": {"zoo_series": series, "zoo_cycles": cycles},
}
DRAWS: dict[str, Draw] = {task: draw for tasks in SKILLS.values() for task, draw in tasks.items()}


def vocabulary() -> list[str]:
    """Every word, letter, digit and sign that any question of any seed can contain, in a fixed order."""
    words = ["reverse", "sort", "next", "go", "on", "largest", "smallest", "first", "second", "third", "last"]
    phrases = [word for group in PHRASES.values() for phrase in group for word in phrase.replace("{}", "").split()]
    return list(dict.fromkeys([*"0123456789", *"+-=<>,:?", *LETTERS, *words, *phrases, *NAMES, *TOWNS, *CRAFTS]))


def held_out(task: str, seed: int, key: str) -> bool:
    """Say whether the questions of this key belong to the test of the family of this seed."""
    digest = blake2b(f"{seed} {task} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT.get(task, HELD_OUT_ELSEWHERE) == 0


def training_questions(task: str, world: World) -> Iterator[Question]:
    """Yield questions of a task for ever, none of which belongs to the test; they may repeat."""
    rng = random.Random(f"train {task} {world.seed}")
    while True:
        question = DRAWS[task](rng, world)
        if not held_out(task, world.seed, question.key):
            yield question


def test_questions(task: str, world: World) -> Iterator[Question]:
    """Yield different test questions of a task; it ends when ten thousand draws in a row brought nothing new."""
    rng = random.Random(f"test {task} {world.seed}")
    seen: set[str] = set()
    vain = 0
    while vain < 10_000:
        question = DRAWS[task](rng, world)
        vain += 1
        if held_out(task, world.seed, question.key) and question.key not in seen:
            seen.add(question.key)
            vain = 0
            yield question
