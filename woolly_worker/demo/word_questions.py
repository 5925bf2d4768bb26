"""Questions about words and their order: days, months, opposites, plurals, past tenses, echoes."""

from __future__ import annotations

import random

from woolly_worker.demo import facts
from woolly_worker.demo.asking import Question, ask
from woolly_worker.demo.phrases import listing
from woolly_worker.demo.stories import COLOURS, NAMES, THINGS


def calendar(rng: random.Random) -> Question:
    names, unit = rng.choice(((facts.DAYS, "day"), (facts.MONTHS, "month")))
    i = rng.randrange(len(names))
    word, step = rng.choice((("after", 1), ("after", 1), ("before", -1), ("before", -1)))
    if unit == "day" and rng.random() < 0.2:
        word, step = "two days after", 2
    question = f"[[What|Which] {unit} [comes|is] {word} {{x}}?|What comes {word} {{x}}?|Which {unit} is {word} {{x}}?]"
    answer = f"The {unit} {word} {{x}} is {names[(i + step) % len(names)]}."
    if step == 2:
        question, answer = (
            "[What|Which] day [is|comes] two days after {x}?",
            f"Two days after {{x}} is {names[(i + 2) % 7]}.",
        )
    return ask(f"{unit}s", question, answer, rng, x=names[i])


def listings(rng: random.Random) -> Question:
    if rng.random() < 0.3:
        names, unit, where = rng.choice(((facts.DAYS, "days", "week"), (facts.MONTHS, "months", "year")))
        question = f"[What are|Name|Tell me|List] the {unit} of the {where}[.|.]"
        return ask("lists", question, f"The {unit} of the {where} are {listing(names)}.", rng, None)
    names, unit, where = rng.choice(((facts.DAYS, "day", "week"), (facts.MONTHS, "month", "year")))
    word, name = rng.choice((("first", names[0]), ("last", names[-1])))
    return ask(
        "lists",
        f"[What|Which] is the {word} {unit} of the {where}?",
        f"The {word} {unit} of the {where} is {name}.",
        rng,
    )


def opposites(rng: random.Random) -> Question:
    pair = rng.choice(facts.OPPOSITES)
    x, y = pair if rng.random() < 0.5 and pair[1] not in facts.ONE_WAY else pair[::-1]
    if x in facts.ONE_WAY:
        x, y = y, x
    question = (
        "[What is|What's] the opposite of {x}?|[Tell me|Name] the opposite of {x}.|Which word is the opposite of {x}?"
        "|What is the opposite of the word {x}?|Opposite of {x}?"
    )
    return ask("opposites", f"[{question}]", "The opposite of {x} is {y}.", rng, x=x, y=y)


def plurals(rng: random.Random) -> Question:
    one = rng.choice(tuple(facts.PLURALS))
    question = (
        "[What is|What's] the plural of {x}?|One {x}, two what?|How do you say more than one {x}?"
        "|Tell me the plural of {x}."
    )
    return ask("plurals", f"[{question}]", "One {x}, two {y}.", rng, x=one, y=facts.PLURALS[one])


def pasts(rng: random.Random) -> Question:
    verb = rng.choice(tuple(facts.PASTS))
    question = (
        "[What is|What's] the past [tense |]of {x}?|Today I {x}. What did I do yesterday?"
        "|Tell me the past tense of {x}."
    )
    return ask("past tense", f"[{question}]", "Today I {x}, yesterday I {y}.", rng, x=verb, y=facts.PASTS[verb])


def echoes(rng: random.Random) -> Question:
    """A row of words to say again. Nothing but the question helps here: this is where copying is learned."""
    if rng.random() < 0.15:
        return ask("echo", "[Say hello to|Greet|Please say hello to] {x}.", "Hello, {x}!", rng, x=rng.choice(NAMES))
    words = [*facts.PLURALS, *facts.SOUNDS, *facts.DEFINITIONS, *THINGS, *COLOURS, *facts.CAPITALS, *NAMES]
    said = " ".join(rng.sample(words, rng.randint(1, 10)))
    return ask("echo", "[Say|Repeat|Please say|Please repeat][| after me|]: {x}", "You said: {x}", rng, x=said)
