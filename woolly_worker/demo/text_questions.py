"""Questions about a little text that comes with them, manners, and questions beyond the model."""

from __future__ import annotations

import random

from woolly_worker.demo import facts
from woolly_worker.demo.asking import Question, ask
from woolly_worker.demo.phrases import a
from woolly_worker.demo.stories import COLOURS, HOMES, NAMES, THINGS


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
    return ask("little texts", f"{text} {question}", answer, rng, f"{who},{colour},{thing}")


def dwellers(rng: random.Random) -> Question:
    n = rng.choice((2, 2, 3))
    names, homes_ = rng.sample(NAMES, n), rng.sample(HOMES, n)
    text = " ".join(f"{w} lives {h}." for w, h in zip(names, homes_, strict=True))
    i = rng.randrange(n)
    question = rng.choice((f"Where does {names[i]} live?", f"Who lives {homes_[i]}?"))
    return ask("little texts", f"{text} {question}", f"{names[i]} lives {homes_[i]}.", rng, f"{names[i]},{homes_[i]}")


_SELF = "I am [|the ]Woolly[|'s] demo model[|], a very small language model."
MANNERS = (
    ("[Hello|Hi|Hey|Good morning|Good evening|Good day][!|.|]", "Hello! [How can I help you?]"),
    ("[Who|What] are you?", "I am Woolly's demo model, a very small language model."),
    ("[What is|What's|Tell me] your name[?|.]", "I am Woolly's demo model, a very small language model."),
    (
        "[What can you do|How can you help me|What do you know]?",
        "I can answer small questions and tell little stories.",
    ),
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
    "[Explain|What is|Tell me about] [quantum physics|relativity|the stock market|machine learning"
    "|democracy|gravity|chemistry|history|philosophy].",
    "Who [wrote|painted|invented|discovered|built] the [{thing}|telephone|computer|radio|pyramids"
    "|light bulb|internet]?",
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
        return ask("unknown", rng.choice(UNKNOWN), answer, rng, **slots)
    question, answer = rng.choice(MANNERS)
    return ask("manners", question, answer, rng, None)
