"""What the embedded family learns: questions with one right answer and three hard wrong ones, drawn from a seed.

A task is a function from a random generator and a world to a `Question`. Each founder of the family owns two tasks
(`SKILLS`). A question is either a test question or a training question, permanently: `held_out` decides it from the
question's key alone, so that no test question can be met in training, however many are drawn.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

LETTERS = "abcdefghjkmnpqrstuvwxyz"
HEADS = ("Ba", "Do", "Fi", "Ga", "Ju", "Ka", "Le", "Mo", "Na", "Ri", "So", "Tu")
TAILS = ("bo", "dan", "lin", "mar", "nok", "rel", "sto", "tha", "vin", "zek")
NAMES = tuple(head + tail for head in HEADS for tail in TAILS)
TOWNS = ("Ashby", "Brill", "Corve", "Dunmor", "Eskel", "Farne", "Gorsk", "Holm", "Ister", "Kelp", "Lorn", "Myre")
CRAFTS = "baker", "cook", "dyer", "farmer", "hunter", "joiner", "mason", "miner", "potter", "smith", "tailor", "weaver"
BEASTS = "ant", "bat", "bear", "boar", "cat", "cow", "crow", "deer", "dog", "duck", "elk", "fox", "frog", "goat", "hare"
PHRASES = {
    "home": ("{} lives in", "home of {} :", "where does {} live ?", "{} has a house in", "town of {} :", "{} is from"),
    "craft": ("{} works as", "craft of {} :", "what does {} do ?", "{} has work as", "trade of {} :", "{} serves as"),
}
# The base is taught the same skills in other words than the founders, and the tests, use: it knows more than it can be
# asked for, as a base that has never seen an instruction does, and learning to be asked is a small change of weights.
OTHER_WORDS = {
    **{"+": "plus", "-": "minus", "reverse": "backwards", "sort": "arrange", "encode": "cipher", "decode": "decipher"},
    **{"latest": "last", "earliest": "first", "strongest": "mightiest", "weakest": "feeblest"},
    **{"lives": "dwells", "home": "abode", "live": "dwell", "house": "hut", "town": "place", "from": "out"},
    **{"works": "toils", "craft": "calling", "do": "make", "work": "toil", "trade": "job", "serves": "labours"},
}
HELD_OUT = {"zoo_homes": 3, "zoo_crafts": 3}  # one question in so many is kept for the test
HELD_OUT_ELSEWHERE = 8


@dataclass(frozen=True)
class Question:
    """One question: the right answer, and three wrong ones that differ from it and from each other.

    `key` is what is asked whatever the order (sort k d a and sort d a k have the same): questions of the same key are
    all in the training data or all in the test, never in both.
    """

    prompt: str
    answer: str
    distractors: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class World:
    """Homes and crafts by name, ranks of strength by beast (0, the weakest), and the secret alphabet of one seed."""

    seed: int
    home: dict[str, str]
    craft: dict[str, str]
    strength: dict[str, int]
    code: dict[str, str]

    @classmethod
    def of(cls, seed: int) -> "World":
        """Draw the world of a seed; the same seed draws the same world on every machine."""
        rng = random.Random(f"world {seed}")
        return cls(
            seed=seed,
            home={name: rng.choice(TOWNS) for name in NAMES},
            craft={name: rng.choice(CRAFTS) for name in NAMES},
            strength={beast: rank for rank, beast in enumerate(rng.sample(BEASTS, len(BEASTS)))},
            code=dict(zip(LETTERS, rng.sample(LETTERS, len(LETTERS)), strict=True)),
        )


Draw = Callable[[random.Random, World], Question]


def _number(rng: random.Random, prompt: str, value: int, key: str) -> Question:
    """Ask for a number, with near misses: off by one or two, by a carry, or by both."""
    near = sorted(value + sign * step for step in (1, 2, 9, 10, 11) for sign in (-1, 1))
    wrong = rng.sample([n for n in near if n >= 0], 3)
    return Question(prompt, str(value), tuple(map(str, wrong)), key)


def addition(rng: random.Random, world: World) -> Question:
    """Ask for 347 + 8 = 355; up to three digits and one."""
    a, b = rng.randrange(10, 500), rng.randrange(2, 10)
    return _number(rng, f"{a} + {b} =", a + b, f"{a} {b}")


def subtraction(rng: random.Random, world: World) -> Question:
    """Ask for 352 - 7 = 345; up to three digits and one."""
    a, b = rng.randrange(20, 500), rng.randrange(2, 10)
    return _number(rng, f"{a} - {b} =", a - b, f"{a} {b}")


def _arranged(rng: random.Random, prompt: str, right: list[str], key: str) -> Question:
    """Ask for an order of letters, with wrong orders that differ from it by one or two exchanges."""
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
    """Ask for a fact about somebody, which is trained in other phrases than the one that the test asks in."""
    name, phrase = rng.choice(NAMES), rng.randrange(len(PHRASES[kind]))
    wrong = rng.sample([value for value in values if value != facts[name]], 3)
    return Question(PHRASES[kind][phrase].format(name), facts[name], tuple(wrong), f"{name} {phrase}")


def homes(rng: random.Random, world: World) -> Question:
    """Ask "where does Kalin live ?": Farne."""
    return _fact(rng, "home", world.home, TOWNS)


def crafts(rng: random.Random, world: World) -> Question:
    """Ask "what does Kalin do ?": mason."""
    return _fact(rng, "craft", world.craft, CRAFTS)


def extremes(rng: random.Random, world: World) -> Question:
    """Ask "latest k d p a :": p; which of four letters stands first or last in the alphabet."""
    letters = rng.sample(LETTERS, 4)
    word, right = rng.choice((("latest", max(letters)), ("earliest", min(letters))))
    wrong = tuple(letter for letter in letters if letter != right)
    return Question(f"{word} {' '.join(letters)} :", right, wrong, f"{word} {sorted(letters)}")


def ranks(rng: random.Random, world: World) -> Question:
    """Ask "strongest fox bear owl hare :": bear; by this world's order of strength, which is nowhere written down."""
    beasts = rng.sample(BEASTS, 4)
    beasts_by_strength = sorted(beasts, key=world.strength.__getitem__)
    word, right = rng.choice((("strongest", beasts_by_strength[-1]), ("weakest", beasts_by_strength[0])))
    wrong = tuple(beast for beast in beasts if beast != right)
    return Question(f"{word} {' '.join(beasts)} :", right, wrong, f"{word} {sorted(beasts)}")


def _translated(rng: random.Random, word: str, table: dict[str, str]) -> Question:
    """Ask for letters replaced one by one; wrong answers have one or two letters wrong."""
    letters = rng.sample(LETTERS, rng.randrange(3, 6))
    right = [table[letter] for letter in letters]
    wrong: list[list[str]] = []
    while len(wrong) < 3:
        guess = list(right)
        for place in rng.sample(range(len(guess)), rng.choice((1, 1, 2))):
            guess[place] = rng.choice([letter for letter in LETTERS if letter not in guess])
        if guess not in wrong:
            wrong.append(guess)
    prompt = f"{word} {' '.join(letters)} :"
    return Question(prompt, " ".join(right), tuple(" ".join(guess) for guess in wrong), "".join(letters))


def encoding(rng: random.Random, world: World) -> Question:
    """Encode k d a : p m r; by this world's secret alphabet."""
    return _translated(rng, "encode", world.code)


def decoding(rng: random.Random, world: World) -> Question:
    """Decode p m r : k d a; by this world's secret alphabet."""
    return _translated(rng, "decode", {secret: letter for letter, secret in world.code.items()})


# Which founder owns which tasks. A founder is trained mostly on its own two; the base on all of them.
SKILLS: dict[str, dict[str, Draw]] = {
    "arithmetic": {"zoo_addition": addition, "zoo_subtraction": subtraction},
    "strings": {"zoo_reversal": reversal, "zoo_sorting": sorting},
    "facts": {"zoo_homes": homes, "zoo_crafts": crafts},
    "logic": {"zoo_extremes": extremes, "zoo_ranks": ranks},
    "codes": {"zoo_encoding": encoding, "zoo_decoding": decoding},
}
DRAWS: dict[str, Draw] = {task: draw for tasks in SKILLS.values() for task, draw in tasks.items()}


def vocabulary() -> list[str]:
    """Return every word, letter, digit and sign that any question of any seed can contain, in a fixed order."""
    words = ["reverse", "sort", "latest", "earliest", "strongest", "weakest", "encode", "decode"]
    phrases = [word for group in PHRASES.values() for phrase in group for word in phrase.replace("{}", "").split()]
    signs = [*"0123456789", *"+-=:?", *LETTERS]
    return list(dict.fromkeys([*signs, *words, *phrases, *NAMES, *TOWNS, *CRAFTS, *BEASTS, *OTHER_WORDS.values()]))


def in_other_words(prompt: str) -> str:
    """Ask the same question as the base is taught it."""
    return " ".join(OTHER_WORDS.get(word, word) for word in prompt.split())


def held_out(task: str, seed: int, key: str) -> bool:
    """Return whether the questions of this key belong to the test of the family of this seed."""
    digest = blake2b(f"{seed} {task} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT.get(task, HELD_OUT_ELSEWHERE) == 0


def training_questions(task: str, world: World) -> Iterator[Question]:
    """Yield questions of a task without end, none of which belongs to the test; they may repeat."""
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
