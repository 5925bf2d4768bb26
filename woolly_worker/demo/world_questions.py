"""Questions about the world: animals, colours, capitals, what things are and what kind they are of."""

from __future__ import annotations

import random

from woolly_worker.demo import facts
from woolly_worker.demo.asking import Question, ask
from woolly_worker.demo.phrases import a, listing


def sounds(rng: random.Random) -> Question:
    animal = rng.choice(tuple(facts.SOUNDS))
    slots = {"x": animal, "an": a(animal), "y": facts.SOUNDS[animal]}
    if rng.random() < 0.3:
        return ask("animal sounds", "[Which|What] animal [says|goes] {y}?", "{an} says {y}.", rng, **slots)
    question = (
        "What does {an} say?|What sound does {an} make?|[Which|What] sound does the {x} make?"
        "|What noise does {an} make?"
        "|What does the {x} say?|How does {an} go?"
    )
    return ask("animal sounds", f"[{question}]", "{an} says {y}.", rng, **slots)


def babies(rng: random.Random) -> Question:
    animal = rng.choice(tuple(facts.BABIES))
    slots = {"x": animal, "an": a(animal), "y": a(facts.BABIES[animal])}
    question = (
        "What is a [baby|young] {x} called?|What do you call a [baby|young] {x}?|What is the baby of {an}?"
        "|What is the name for a [baby|young] {x}?"
    )
    return ask("animal babies", f"[{question}]", "A young {x} is called {y}.", rng, **slots)


def homes(rng: random.Random) -> Question:
    who = rng.choice(tuple(facts.HOMES))
    place = facts.HOMES[who]
    where = (
        f"in the {place}"
        if place in ("sea", "desert", "cold south", "jungle")
        else f"{'on' if place in ('farm', 'ship') else 'in'} {a(place)}"
    )
    slots = {"x": who, "an": a(who), "where": where}
    question = (
        "Where does {an} live?|Where do {x}s live?|Where is the home of {an}?|Tell me where {an} lives."
        "|Where does the {x} live?"
    )
    if who == "fish":
        question = question.replace("{x}s", "{x}")
    elif who == "fox":
        question = question.replace("{x}s", "foxes")
    return ask("homes", f"[{question}]", "{an} lives {where}.", rng, **slots)


def colours(rng: random.Random) -> Question:
    thing, colour = rng.choice(facts.COLOURS)
    question = (
        "[What|Which] [colour|color] is {x}?|What is the [colour|color] of {x}?|Tell me the [colour|color] of {x}."
        "|Do you know what [colour|color] {x} is?|What [colour|color] does {x} have?"
    )
    return ask("colours", f"[{question}]", "{x} is {y}.", rng, x=thing, y=colour)


def capitals(rng: random.Random) -> Question:
    country = rng.choice(tuple(facts.CAPITALS))
    slots = {"x": country, "y": facts.CAPITALS[country]}
    if rng.random() < 0.3:
        question = (
            "[[Which|What] country is {y} the capital of?|{y} is the capital of which country?"
            "|In which country is {y}?|Where is {y}?]"
        )
        return ask("capitals", question, "{y} is the capital of {x}.", rng, **slots)
    question = (
        "[What is|What's] the capital [city |]of {x}?|[Name|Tell me] the capital of {x}."
        "|Which city is the capital of {x}?"
        "|Do you know the capital of {x}?|{x}'s capital?"
    )
    return ask("capitals", f"[{question}]", "The capital of {x} is {y}.", rng, **slots)


def definitions(rng: random.Random) -> Question:
    word = rng.choice(tuple(facts.DEFINITIONS))
    slots = {"x": word, "an": word if word in facts.MASS_NOUNS else a(word), "y": facts.DEFINITIONS[word]}
    question = (
        "[What is|What's] {an}?|What does the word {x} mean?|[Tell me|Explain] what {an} is."
        "|Do you know what {an} is?|Explain the word {x}."
    )
    return ask("definitions", f"[{question}]", "{an} is {y}.", rng, **slots)


def makers(rng: random.Random) -> Question:
    what = rng.choice(tuple(facts.MAKERS))
    maker = facts.MAKERS[what]
    if rng.random() < 0.5:
        question, answer = "[Where does {x} come from|From whom do we get {x}]?", "{x} comes from {an}."
    else:
        question, answer = "[Who makes {x}|Who gives us {x}]?", "{an} gives us {x}."
    return ask("makers", question, answer, rng, x=what, an=a(maker))


def categories(rng: random.Random) -> Question:
    kind, other = rng.sample(tuple(facts.CATEGORIES), 2)
    thing = rng.choice(facts.CATEGORIES[kind])
    bare = kind in ("colour", "day", "month")
    slots = {"x": thing if bare else a(thing), "kind": kind, "a_kind": a(kind), "a_other": a(other)}
    draw = rng.random()
    if {kind, other} == {"bird", "animal"} or (thing == "orange" and draw < 0.6):
        draw = 0.9
    if draw < 0.3:
        return ask("categories", "Is {x} {a_kind}?", "Yes, {x} is {a_kind}.", rng, **slots)
    if draw < 0.6:
        return ask("categories", "Is {x} {a_other}?", "No, {x} is {a_kind}.", rng, **slots)
    if draw < 0.85:
        order = rng.choice(("{a_kind} or {a_other}", "{a_other} or {a_kind}"))
        return ask("categories", f"Is {{x}} {order}?", "{x} is {a_kind}.", rng, **slots)
    three = rng.sample(facts.CATEGORIES[kind], 3)
    question = "[Name|Tell me|Can you name] three {kind}s."
    return ask("categories", question, f"Three {{kind}}s are {listing(three)}.", rng, None, **slots)
