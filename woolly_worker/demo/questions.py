"""Questions with answers that can be checked: one generator for each kind, over the tables of `facts`.

A tenth of every kind is held out of training: for sums and comparisons by the numbers, whatever the wording; for
little texts by who owns what; for facts by the exact question, so that the fact is known but not asked in those words.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from woolly_worker.demo import facts
from woolly_worker.demo.phrases import a, expand, listing, sentences
from woolly_worker.demo.stories import BOYS, COLOURS, GIRLS, HOMES, THINGS

NAMES = (*GIRLS, *BOYS)


@dataclass(frozen=True, slots=True)
class Question:
    kind: str
    text: str
    answer: str
    key: str | None  # questions with the same key are all in training, or all out of it; None is always taught

    @property
    def held_out(self) -> bool:
        return self.key is not None and zlib.crc32(self.key.encode()) % 10 == 0


def _ask(
    kind: str, question: str, answer: str, rng: random.Random, key: str | None = "", /, **slots: str
) -> Question:
    """Fill both templates. Without a key, the exact text of the question is the key."""
    text = sentences(expand(question, slots, rng))
    return Question(kind, text, sentences(expand(answer, slots, rng)), text if key == "" else key)


# --- numbers -------------------------------------------------------------------------------------------------------


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
    return _ask("sums", f"[{question}]", "{x} + {y} = {z}.", rng, _pair(x, y), **slots)


def differences(rng: random.Random) -> Question:
    x = rng.randint(0, 20)
    y = rng.randint(0, x)
    question = (
        "[What is|What's|How much is] {x} [-|minus] {y}?|{x} - {y} = ?|Take {y} away from {x}.|What is {x} take away {y}?"
    )
    return _ask(
        "differences", f"[{question}]", "{x} - {y} = {z}.", rng, f"{x}-{y}", x=str(x), y=str(y), z=str(x - y)
    )


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
    return _ask("word sums", question, answer, rng, key, x=str(x), y=str(y), z=str(z), **slots)


def comparisons(rng: random.Random) -> Question:
    x, y = rng.sample(range(51), 2)
    big, small = str(max(x, y)), str(min(x, y))
    slots = {"x": str(x), "y": str(y), "big": big, "small": small}
    if rng.random() < 0.6:
        question, answer = "[Which [number |]is [bigger|larger]|What is more], {x} or {y}?", "{big} is bigger than {small}."
    else:
        question, answer = "[Which [number |]is smaller|What is less], {x} or {y}?", "{small} is smaller than {big}."
    return _ask("comparisons", question, answer, rng, _pair(x, y, "<"), **slots)


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
    return _ask("counting", question, ", ".join(numbers) + ".", rng, x=str(first), y=str(last))


def neighbours(rng: random.Random) -> Question:
    n, after = rng.randint(1, 99), rng.random() < 0.6
    word = "after" if after else "before"
    question = f"[[What|Which] number comes [right |]{word} {{n}}?|What comes {word} {{n}}?]"
    answer = f"The number {word} {{n}} is {n + 1 if after else n - 1}."
    return _ask("next numbers", question, answer, rng, f"{word} {n}", n=str(n))


def parity(rng: random.Random) -> Question:
    n = rng.randint(0, 50)
    question = "[Is {n} [odd or even|even or odd]?|Is the number {n} [odd or even|even or odd]?]"
    return _ask("odd or even", question, f"{{n}} is {'odd' if n % 2 else 'even'}.", rng, f"parity {n}", n=str(n))


def doubles(rng: random.Random) -> Question:
    n = rng.randint(1, 20)
    question = "[What is|What's|How much is] [double {n}|two times {n}|twice {n}|2 times {n}]?"
    return _ask("doubles", question, f"Double {n} is {2 * n}.", rng, _pair(n, n), n=str(n))


def how_many(rng: random.Random) -> Question:
    if rng.random() < 0.5:
        animal = rng.choice(tuple(facts.LEGS))
        legs = facts.LEGS[animal]
        answer = f"{{An}} has {legs or 'no'} legs."
        return _ask("how many", "[How many legs does {an} have|How many legs has {an}]?", answer, rng, an=a(animal), An=a(animal))
    what = rng.choice(tuple(facts.HOW_MANY))
    return _ask("how many", f"[|Please tell me: |Tell me: ][how many] {what}?", facts.HOW_MANY[what], rng)


# --- order ---------------------------------------------------------------------------------------------------------


def calendar(rng: random.Random) -> Question:
    names, unit = rng.choice(((facts.DAYS, "day"), (facts.MONTHS, "month")))
    i = rng.randrange(len(names))
    word, step = rng.choice((("after", 1), ("after", 1), ("before", -1), ("before", -1)))
    if unit == "day" and rng.random() < 0.2:
        word, step = "two days after", 2
    question = f"[[What|Which] {unit} [comes|is] {word} {{x}}?|What comes {word} {{x}}?|Which {unit} is {word} {{x}}?]"
    answer = f"The {unit} {word} {{x}} is {names[(i + step) % len(names)]}."
    if step == 2:
        question, answer = "[What|Which] day [is|comes] two days after {x}?", f"Two days after {{x}} is {names[(i + 2) % 7]}."
    return _ask(f"{unit}s", question, answer, rng, x=names[i])


def listings(rng: random.Random) -> Question:
    if rng.random() < 0.3:
        names, unit, where = rng.choice(((facts.DAYS, "days", "week"), (facts.MONTHS, "months", "year")))
        question = f"[What are|Name|Tell me|List] the {unit} of the {where}[.|.]"
        return _ask("lists", question, f"The {unit} of the {where} are {listing(names)}.", rng, None)
    names, unit, where = rng.choice(((facts.DAYS, "day", "week"), (facts.MONTHS, "month", "year")))
    word, name = rng.choice((("first", names[0]), ("last", names[-1])))
    return _ask("lists", f"[What|Which] is the {word} {unit} of the {where}?", f"The {word} {unit} of the {where} is {name}.", rng)


# --- words ---------------------------------------------------------------------------------------------------------


def opposites(rng: random.Random) -> Question:
    pair = rng.choice(facts.OPPOSITES)
    x, y = pair if rng.random() < 0.5 and pair[1] not in facts.ONE_WAY else pair[::-1]
    if x in facts.ONE_WAY:
        x, y = y, x
    question = (
        "[What is|What's] the opposite of {x}?|[Tell me|Name] the opposite of {x}.|Which word is the opposite of {x}?"
        "|What is the opposite of the word {x}?|Opposite of {x}?"
    )
    return _ask("opposites", f"[{question}]", "The opposite of {x} is {y}.", rng, x=x, y=y)


def plurals(rng: random.Random) -> Question:
    one = rng.choice(tuple(facts.PLURALS))
    question = "[What is|What's] the plural of {x}?|One {x}, two what?|How do you say more than one {x}?|Tell me the plural of {x}."
    return _ask("plurals", f"[{question}]", "One {x}, two {y}.", rng, x=one, y=facts.PLURALS[one])


def pasts(rng: random.Random) -> Question:
    verb = rng.choice(tuple(facts.PASTS))
    question = "[What is|What's] the past [tense |]of {x}?|Today I {x}. What did I do yesterday?|Tell me the past tense of {x}."
    return _ask("past tense", f"[{question}]", "Today I {x}, yesterday I {y}.", rng, x=verb, y=facts.PASTS[verb])


def echoes(rng: random.Random) -> Question:
    words = [*facts.PLURALS, *facts.SOUNDS, *facts.DEFINITIONS, *THINGS, *COLOURS, *facts.CAPITALS, *facts.PASTS]
    said = rng.choice(words) if rng.random() < 0.6 else " ".join(rng.sample(words, rng.randint(2, 3)))
    if rng.random() < 0.2:
        return _ask("echo", "[Say hello to|Greet|Please say hello to] {x}.", "Hello, {x}!", rng, x=rng.choice(NAMES))
    answer = "{x}."
    return _ask("echo", "[Say|Repeat|Please say|Please repeat][ the word| after me:|:]  {x}.", answer, rng, x=said)


# --- the world -----------------------------------------------------------------------------------------------------


def sounds(rng: random.Random) -> Question:
    animal = rng.choice(tuple(facts.SOUNDS))
    slots = {"x": animal, "an": a(animal), "y": facts.SOUNDS[animal]}
    if rng.random() < 0.3:
        return _ask("animal sounds", "[Which|What] animal [says|goes] {y}?", "{an} says {y}.", rng, **slots)
    question = (
        "What does {an} say?|What sound does {an} make?|[Which|What] sound does the {x} make?|What noise does {an} make?"
        "|What does the {x} say?|How does {an} go?"
    )
    return _ask("animal sounds", f"[{question}]", "{an} says {y}.", rng, **slots)


def babies(rng: random.Random) -> Question:
    animal = rng.choice(tuple(facts.BABIES))
    slots = {"x": animal, "an": a(animal), "y": a(facts.BABIES[animal])}
    question = "What is a [baby|young] {x} called?|What do you call a [baby|young] {x}?|What is the baby of {an}?|What is the name for a [baby|young] {x}?"
    return _ask("animal babies", f"[{question}]", "A young {x} is called {y}.", rng, **slots)


def homes(rng: random.Random) -> Question:
    who = rng.choice(tuple(facts.HOMES))
    place = facts.HOMES[who]
    where = f"in the {place}" if place in ("sea", "desert", "cold south", "jungle") else f"{'on' if place in ('farm', 'ship') else 'in'} {a(place)}"
    slots = {"x": who, "an": a(who), "where": where}
    question = "Where does {an} live?|Where do {x}s live?|Where is the home of {an}?|Tell me where {an} lives.|Where does the {x} live?"
    if who == "fish":
        question = question.replace("{x}s", "{x}")
    elif who == "fox":
        question = question.replace("{x}s", "foxes")
    return _ask("homes", f"[{question}]", "{an} lives {where}.", rng, **slots)


def colours(rng: random.Random) -> Question:
    thing, colour, _ = rng.choice(facts.COLOURS)
    question = (
        "[What|Which] [colour|color] is {x}?|What is the [colour|color] of {x}?|Tell me the [colour|color] of {x}."
        "|Do you know what [colour|color] {x} is?|What [colour|color] does {x} have?"
    )
    return _ask("colours", f"[{question}]", "{x} is {y}.", rng, x=thing, y=colour)


def capitals(rng: random.Random) -> Question:
    country = rng.choice(tuple(facts.CAPITALS))
    slots = {"x": country, "y": facts.CAPITALS[country]}
    if rng.random() < 0.3:
        question = "[[Which|What] country is {y} the capital of?|{y} is the capital of which country?|In which country is {y}?|Where is {y}?]"
        return _ask("capitals", question, "{y} is the capital of {x}.", rng, **slots)
    question = (
        "[What is|What's] the capital [city |]of {x}?|[Name|Tell me] the capital of {x}.|Which city is the capital of {x}?"
        "|Do you know the capital of {x}?|{x}'s capital?"
    )
    return _ask("capitals", f"[{question}]", "The capital of {x} is {y}.", rng, **slots)


def definitions(rng: random.Random) -> Question:
    word = rng.choice(tuple(facts.DEFINITIONS))
    slots = {"x": word, "an": word if word in facts.MASS_NOUNS else a(word), "y": facts.DEFINITIONS[word]}
    question = "[What is|What's] {an}?|What does the word {x} mean?|[Tell me|Explain] what {an} is.|Do you know what {an} is?|Explain the word {x}."
    return _ask("definitions", f"[{question}]", "{an} is {y}.", rng, **slots)


def makers(rng: random.Random) -> Question:
    what = rng.choice(tuple(facts.MAKERS))
    maker = facts.MAKERS[what]
    if rng.random() < 0.5:
        question, answer = "[Where does {x} come from|From whom do we get {x}]?", "{x} comes from {an}."
    else:
        question, answer = "[Who makes {x}|Who gives us {x}]?", "{an} gives us {x}."
    return _ask("makers", question, answer, rng, x=what, an=a(maker))


def categories(rng: random.Random) -> Question:
    kind, other = rng.sample(tuple(facts.CATEGORIES), 2)
    thing = rng.choice(facts.CATEGORIES[kind])
    bare = kind in ("colour", "day", "month")
    slots = {"x": thing if bare else a(thing), "kind": kind, "a_kind": a(kind), "a_other": a(other)}
    draw = rng.random()
    if {kind, other} == {"bird", "animal"} or (thing == "orange" and draw < 0.6):
        draw = 0.9
    if draw < 0.3:
        return _ask("categories", "Is {x} {a_kind}?", "Yes, {x} is {a_kind}.", rng, **slots)
    if draw < 0.6:
        return _ask("categories", "Is {x} {a_other}?", "No, {x} is {a_kind}.", rng, **slots)
    if draw < 0.85:
        order = rng.choice(("{a_kind} or {a_other}", "{a_other} or {a_kind}"))
        return _ask("categories", f"Is {{x}} {order}?", "{x} is {a_kind}.", rng, **slots)
    three = rng.sample(facts.CATEGORIES[kind], 3)
    question = "[Name|Tell me|Can you name] three {kind}s."
    return _ask("categories", question, f"Three {{kind}}s are {listing(three)}.", rng, None, **slots)


# --- little texts --------------------------------------------------------------------------------------------------


def owners(rng: random.Random) -> Question:
    """Two or three owners; the answer is in the text, and nowhere else."""
    n = rng.choice((2, 2, 3))
    names, things, colours_ = rng.sample(NAMES, n), rng.sample(THINGS, n), rng.sample(COLOURS, n)
    text = " ".join(f"{w} has {a(f'{c} {t}')}." for w, t, c in zip(names, things, colours_, strict=True))
    i = rng.randrange(n)
    who, thing, colour = names[i], things[i], colours_[i]
    question, answer = rng.choice(
        (
            (f"[What|Which] [colour|color] is the {thing}?", f"The {thing} is {colour}."),
            (f"What [colour|color] is {who}'s {thing}?", f"The {thing} is {colour}."),
            (f"Who has the {thing}?", f"{who} has the {thing}."),
            (f"Who has {a(f'{colour} {thing}')}?", f"{who} has the {thing}."),
            (f"What does {who} have?", f"{who} has {a(f'{colour} {thing}')}."),
        )
    )
    return _ask("little texts", f"{text} {question}", answer, rng, f"{who},{colour},{thing}")


def dwellers(rng: random.Random) -> Question:
    n = rng.choice((2, 2, 3))
    names, homes_ = rng.sample(NAMES, n), rng.sample(HOMES, n)
    text = " ".join(f"{w} lives {h}." for w, h in zip(names, homes_, strict=True))
    i = rng.randrange(n)
    question = rng.choice((f"Where does {names[i]} live?", f"Who lives {homes_[i]}?"))
    return _ask("little texts", f"{text} {question}", f"{names[i]} lives {homes_[i]}.", rng, f"{names[i]},{homes_[i]}")


# --- manners -------------------------------------------------------------------------------------------------------

_SELF = "I am [|the ]Woolly[|'s] demo model[|], a very small language model."
MANNERS = (
    ("[Hello|Hi|Hey|Good morning|Good evening|Good day][!|.|]", "Hello! [How can I help you?]"),
    ("[Who|What] are you?", "I am Woolly's demo model, a very small language model."),
    ("[What is|What's|Tell me] your name[?|.]", "I am Woolly's demo model, a very small language model."),
    ("[What can you do|How can you help me|What do you know]?", "I can answer small questions and tell little stories."),
    ("[How are you|How do you do][ today|]?", "I am fine, thank you. How can I help you?"),
    ("[Thank you|Thanks|Thank you very much|Many thanks][!|.|]", "You are welcome!"),
    ("[Goodbye|Bye|Good night|See you][!|.|]", "Goodbye! Come back soon."),
    ("[Are you a [human|person|man|sheep|dog]|Are you alive|Are you real]?", "No, I am a very small language model."),
    ("[Help|Help me|Can you help me][!|.|?]", "I can answer small questions and tell little stories."),
)
UNKNOWN = (
    "Who [won|lost|played] the [world cup|game|match|election] [in {n}|last year|yesterday]?",
    "Who is the [president|king|queen|leader|prime minister] of {country}?",
    "Write [a|some] [program|code|poem|letter|script] [in Python|for me|about {thing}s|in French].",
    "What is the [weather|temperature|time|news] [today|tomorrow|now|in {city}]?",
    "How many people live in {city}?",
    "[Explain|What is|Tell me about] [quantum physics|relativity|the stock market|machine learning|democracy|gravity|chemistry|history|philosophy].",
    "Who [wrote|painted|invented|discovered|built] the [{thing}|telephone|computer|radio|pyramids|light bulb|internet]?",
    "Translate [this|{thing}|hello] into [French|German|Spanish|Latin].",
    "What is the [meaning of life|speed of light|square root of {n}|price of a {thing}]?",
    "What is {n} times {m}?",
)


def manners(rng: random.Random) -> Question:
    if rng.random() < 0.4:
        slots = {
            "n": str(rng.randint(21, 2020)), "m": str(rng.randint(3, 99)), "country": rng.choice(tuple(facts.CAPITALS)),
            "city": rng.choice(tuple(facts.CAPITALS.values())), "thing": rng.choice(THINGS),
        }  # fmt: skip
        answer = "I do not know that. I am a very small language model."
        return _ask("unknown", rng.choice(UNKNOWN), answer, rng, **slots)
    question, answer = rng.choice(MANNERS)
    return _ask("manners", question, answer, rng, None)


# How often each kind is drawn.
KINDS: dict[Callable[[random.Random], Question], float] = {
    sums: 12, differences: 6, word_sums: 5, comparisons: 4, counting: 2, neighbours: 3, parity: 1.5, doubles: 1,
    how_many: 2, calendar: 4, listings: 0.7, opposites: 4, plurals: 2, pasts: 1.5, echoes: 2, sounds: 3, babies: 1.5,
    homes: 2.5, colours: 3.5, capitals: 3.5, definitions: 4.5, makers: 0.7, categories: 3, owners: 6, dwellers: 3,
    manners: 2.5,
}  # fmt: skip


def question(rng: random.Random) -> Question:
    """One question of any kind, held out or not."""
    (make,) = rng.choices(tuple(KINDS), tuple(KINDS.values()))
    return make(rng)
