"""Questions about numbers: sums, little stories about sums, order and counting."""

from __future__ import annotations

import random

from woolly_worker.demo import facts
from woolly_worker.demo.asking import Question, ask
from woolly_worker.demo.phrases import a
from woolly_worker.demo.stories import GIRLS, NAMES


def _pair(x: int, y: int, sign: str = "+") -> str:
    """The same key for 3 + 8 and 8 + 3, in figures, in words and in a little story."""
    return f"{min(x, y)}{sign}{max(x, y)}"


def sums(rng: random.Random) -> Question:
    x, y = rng.randint(0, 20), rng.randint(0, 20)
    slots = {"x": str(x), "y": str(y), "wx": facts.NUMBER_WORDS[x], "wy": facts.NUMBER_WORDS[y], "z": str(x + y)}
    question = (
        "[What is|What's|How much is] {x} [+|plus|and] {y}?|[What is|How much is] {wx} plus {wy}?"
        "|{x} + {y} = ?|[Please add|Add|Can you add] {x} and {y}.|What is the sum of {x} and {y}?|{x} + {y}"
    )
    return ask("sums", f"[{question}]", "{x} + {y} = {z}.", rng, _pair(x, y), **slots)


def differences(rng: random.Random) -> Question:
    x = rng.randint(0, 20)
    y = rng.randint(0, x)
    question = (
        "[What is|What's|How much is] {x} [-|minus] {y}?|{x} - {y} = ?|Take {y} away from {x}."
        "|What is {x} take away {y}?"
    )
    return ask("differences", f"[{question}]", "{x} - {y} = {z}.", rng, f"{x}-{y}", x=str(x), y=str(y), z=str(x - y))


def word_sums(rng: random.Random) -> Question:
    x, y = rng.randint(1, 10), rng.randint(1, 10)
    who, giver = rng.sample(NAMES, 2)
    goods = rng.choice(("apples", "books", "stones", "coins", "nuts", "balls", "stars", "shells", "eggs", "cookies"))
    slots = {"who": who, "giver": giver, "goods": goods, "he": "she" if who in GIRLS else "he"}
    if rng.random() < 0.6:
        question = (
            "{who} has {x} {goods}. [{giver} gives {who} {y} more|{who} finds {y} more|{who} gets {y} more {goods}]. "
            "How many {goods} does [{who}|{he}] have [now|in all]?"
        )
        answer, z, key = "{x} + {y} = {z}, so {who} has {z} {goods}.", x + y, _pair(x, y)
    else:
        x = max(x, y)
        question = (
            "{who} has {x} {goods}. {who} [gives {y} of them to {giver}|loses {y} of them|gives {giver} {y} {goods}]. "
            "How many {goods} does [{who}|{he}] have [now|left]?"
        )
        answer, z, key = "{x} - {y} = {z}, so {who} has {z} {goods}.", x - y, f"{x}-{y}"
    return ask("word sums", question, answer, rng, key, x=str(x), y=str(y), z=str(z), **slots)


def comparisons(rng: random.Random) -> Question:
    x, y = rng.sample(range(51), 2)
    big, small = str(max(x, y)), str(min(x, y))
    slots = {"x": str(x), "y": str(y), "big": big, "small": small}
    if rng.random() < 0.6:
        question, answer = (
            "[Which [number |]is [bigger|larger]|What is more], {x} or {y}?",
            "{big} is bigger than {small}.",
        )
    else:
        question, answer = "[Which [number |]is smaller|What is less], {x} or {y}?", "{small} is smaller than {big}."
    return ask("comparisons", question, answer, rng, _pair(x, y, "<"), **slots)


def counting(rng: random.Random) -> Question:
    first = rng.choice((1, 1, rng.randint(0, 20)))
    last = first + rng.randint(2, 9)
    numbers = [str(n) for n in range(first, last + 1)]
    if rng.random() < 0.25 and first <= 5:
        question, numbers = "Count [down|backwards] from {y} to {x}.", numbers[::-1]
    else:
        question = "[Count|Please count|Can you count] from {x} to {y}[.|.]"
        if first == 1 and rng.random() < 0.3:
            question = "[Count|Please count|Can you count] to {y}."
    return ask("counting", question, ", ".join(numbers) + ".", rng, x=str(first), y=str(last))


def neighbours(rng: random.Random) -> Question:
    n, after = rng.randint(1, 99), rng.random() < 0.6
    word = "after" if after else "before"
    question = f"[[What|Which] number comes [right |]{word} {{n}}?|What comes {word} {{n}}?]"
    answer = f"The number {word} {{n}} is {n + 1 if after else n - 1}."
    return ask("next numbers", question, answer, rng, f"{word} {n}", n=str(n))


def parity(rng: random.Random) -> Question:
    n = rng.randint(0, 50)
    question = "[Is {n} [odd or even|even or odd]?|Is the number {n} [odd or even|even or odd]?]"
    return ask("odd or even", question, f"{{n}} is {'odd' if n % 2 else 'even'}.", rng, f"parity {n}", n=str(n))


def doubles(rng: random.Random) -> Question:
    n = rng.randint(1, 20)
    question = "[What is|What's|How much is] [double {n}|two times {n}|twice {n}|2 times {n}]?"
    return ask("doubles", question, f"Double {n} is {2 * n}.", rng, _pair(n, n), n=str(n))


def how_many(rng: random.Random) -> Question:
    if rng.random() < 0.5:
        animal = rng.choice(tuple(facts.LEGS))
        legs = facts.LEGS[animal]
        answer = f"{{An}} has {legs or 'no'} legs."
        return ask(
            "how many",
            "[How many legs does {an} have|How many legs has {an}]?",
            answer,
            rng,
            an=a(animal),
            An=a(animal),
        )
    what = rng.choice(tuple(facts.HOW_MANY))
    return ask("how many", f"[|Please tell me: |Tell me: ][how many] {what}?", facts.HOW_MANY[what], rng)
