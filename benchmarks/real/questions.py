"""What the founders are taught and asked: six tasks in plain English, two of which each founder owns.

They are of the kinds that BIG-Bench Hard has, made from a seed instead of collected, and short enough for two cores.
What is a test question the hash of its key decides for good (`src.zoo.skills.held_out`): no founder has met one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from src.zoo.skills import Question, held_out

PEOPLE = (
    *("Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Kate", "Leo"),
    *("Mary", "Nick", "Olive", "Paul", "Rose", "Sam", "Tina", "Victor"),
)
KINDS = {
    "fruit": ("apple", "pear", "plum", "banana", "orange", "peach", "cherry", "lemon", "grape", "mango"),
    "animal": ("dog", "cat", "horse", "cow", "goat", "rabbit", "duck", "lion", "mouse", "sheep"),
    "tool": ("hammer", "saw", "drill", "shovel", "knife", "axe", "rake", "wrench", "ladder", "brush"),
    "instrument": ("violin", "piano", "flute", "drum", "trumpet", "guitar", "harp", "cello", "clarinet", "organ"),
    "vehicle": ("car", "bus", "train", "truck", "boat", "plane", "bicycle", "tractor", "van", "ferry"),
    "garment": ("shirt", "coat", "hat", "scarf", "glove", "dress", "sock", "jacket", "skirt", "belt"),
}
PLURALS = {
    **{"mouse": "mice", "sheep": "sheep", "knife": "knives", "bus": "buses", "brush": "brushes", "dress": "dresses"},
    **{"peach": "peaches", "cherry": "cherries", "ferry": "ferries", "mango": "mangoes"},
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

Draw = Callable[[random.Random], Question]


def boolean_expressions(rng: random.Random) -> Question:
    """Ask for the value of `not ( True and False ) or ( False or not True )`; as often True as False."""

    def literal() -> str:
        return rng.choice(("", "not ")) + rng.choice(("True", "False"))

    def pair() -> str:
        return f"{rng.choice(('', 'not '))}( {literal()} {rng.choice(('and', 'or'))} {literal()} )"

    wanted = rng.random() < 0.5
    while True:
        text = f"{pair()} {rng.choice(('and', 'or'))} {pair()}"
        if eval(text) == wanted:  # of the words above, and no others
            return Question(f"Question: What is {text}?\nAnswer:", str(wanted), (str(not wanted),), text)


def logical_deduction(rng: random.Random) -> Question:
    """Ask who is the tallest or the shortest, of three people and two comparisons."""
    tall, middle, short = people = rng.sample(PEOPLE, 3)
    facts = [_compared(rng, tall, middle), _compared(rng, middle, short)]
    rng.shuffle(facts)
    word, right = rng.choice((("the tallest", tall), ("the shortest", short)))
    prompt = f"Question: {facts[0]} {facts[1]} Who is {word}?\nAnswer:"
    return Question(prompt, right, tuple(sorted(set(people) - {right})), f"{people}")


def _compared(rng: random.Random, taller: str, shorter: str) -> str:
    return rng.choice((f"{taller} is taller than {shorter}.", f"{shorter} is shorter than {taller}."))


def object_counting(rng: random.Random) -> Question:
    """Ask how many fruits there are among other things."""
    kind, other = rng.sample(list(KINDS), 2)
    things = rng.sample(KINDS[kind], rng.choice((2, 2, 3))) + rng.sample(KINDS[other], rng.choice((1, 2)))
    counts = {thing: rng.choice((1, 1, 2, 3)) for thing in things}
    rng.shuffle(things)
    total = sum(count for thing, count in counts.items() if thing in KINDS[kind])
    listed = ", ".join(_several(counts[thing], thing) for thing in things)
    near = [NUMBERS[n] for n in range(max(1, total - 3), total + 4) if n != total]
    prompt = f"Question: I have {listed}. How many {kind}s do I have?\nAnswer:"
    return Question(prompt, NUMBERS[total], tuple(rng.sample(near, 3)), f"{sorted(counts.items())} {kind}")


def _several(count: int, thing: str) -> str:
    if count > 1:
        return f"{NUMBERS[count]} {PLURALS.get(thing, f'{thing}s')}"
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def odd_one_out(rng: random.Random) -> Question:
    """Ask which of four words is of another kind."""
    kind, other = rng.sample(list(KINDS), 2)
    words = rng.sample(KINDS[kind], 3)
    right = rng.choice(KINDS[other])
    listed = rng.sample([*words, right], 4)
    prompt = f"Question: Which word does not belong: {', '.join(listed)}?\nAnswer:"
    return Question(prompt, right, tuple(words), f"{sorted(listed)}")


def number_comparison(rng: random.Random) -> Question:
    """Ask for the larger or the smaller of two numbers of three digits, often of the same digits."""
    first = rng.randrange(100, 1000)
    second = int("".join(rng.sample(str(first), 3))) if rng.random() < 0.5 else rng.randrange(100, 1000)
    if second == first or second < 100:
        return number_comparison(rng)
    word, right = rng.choice((("larger", max(first, second)), ("smaller", min(first, second))))
    prompt = f"Question: Which number is {word}, {first} or {second}?\nAnswer:"
    return Question(prompt, str(right), (str(first + second - right),), f"{sorted((first, second))}")


def word_sorting(rng: random.Random) -> Question:
    """Ask which of four words comes first, or last, in the alphabet."""
    words = rng.sample([word for words in KINDS.values() for word in words], 4)
    word, right = rng.choice((("first", min(words)), ("last", max(words))))
    wrong = tuple(one for one in words if one != right)
    prompt = f"Question: Which word comes {word} in the alphabet: {', '.join(words)}?\nAnswer:"
    return Question(prompt, right, wrong, f"{sorted(words)}")


SKILLS: dict[str, dict[str, Draw]] = {
    "logic": {"boolean_expressions": boolean_expressions, "logical_deduction": logical_deduction},
    "words": {"odd_one_out": odd_one_out, "word_sorting": word_sorting},
    "numbers": {"object_counting": object_counting, "number_comparison": number_comparison},
}
"""Which founder owns which tasks."""
DRAWS: dict[str, Draw] = {task: draw for tasks in SKILLS.values() for task, draw in tasks.items()}


def training(task: str, seed: int) -> Iterator[Question]:
    """Yield questions of a task without end, none of which belongs to the test; they may repeat."""
    rng = random.Random(f"train {task} {seed}")
    while True:
        question = DRAWS[task](rng)
        if not held_out(task, seed, question.key):
            yield question


def testing(task: str, seed: int) -> Iterator[Question]:
    """Yield different test questions; it ends when ten thousand draws in a row brought nothing new."""
    rng = random.Random(f"test {task} {seed}")
    seen: set[str] = set()
    vain = 0
    while vain < 10_000:
        question = DRAWS[task](rng)
        vain += 1
        if held_out(task, seed, question.key) and question.key not in seen:
            seen.add(question.key)
            vain = 0
            yield question
