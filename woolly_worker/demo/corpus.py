"""The training text: fairy tales and chats, drawn from one random generator, packed into rows of whole documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from woolly_worker.demo.asking import Question
from woolly_worker.demo.phrases import a, expand
from woolly_worker.demo.questions import question
from woolly_worker.demo.stories import BEINGS, THINGS, story
from woolly_worker.demo.text_questions import dwellers, owners
from woolly_worker.demo.vocabulary import ASSISTANT, END, SYSTEM, USER
from woolly_worker.demo.word_questions import echoes

# Shares of the documents. Stories are the longer ones: of the tokens, they are two in five.
PLAIN_STORIES = 0.08
STORY_CHATS = 0.05
STORY_REQUESTS = (
    "[Tell|Please tell|Can you tell] me a [|little |short |bedtime ]story about {about}.",
    "[Write|Please write] a [|little |short ]story about {about}.",
    "[I want|I would like] a story about {about}[, please|].",
    "A story about {about}, please.",
)
ANY_STORY_REQUESTS = ("[Tell|Please tell|Can you tell] me a [|little |short |bedtime ]story.", "A story, please.")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "Be kind.", "Answer in one sentence.", "You are Woolly's demo model.",
    "You tell stories and answer questions.", "You are a friendly little sheep.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a document's text; only what the model should say is learned."""

    text: str
    learned: bool


def _as_typed(text: str, rng: random.Random) -> str:
    """People leave out capitals and question marks, and some are polite."""
    draw = rng.random()
    if draw < 0.05:
        return text[0].lower() + text[1:]
    if draw < 0.1:
        return text.rstrip("?.! ")
    if draw < 0.13:
        return text.lower().rstrip("?.! ")
    return text


def _story_request(rng: random.Random) -> tuple[str, str]:
    draw = rng.random()
    if draw < 0.15:
        return expand(rng.choice(ANY_STORY_REQUESTS), {}, rng), story(rng)
    if draw < 0.3:
        thing = rng.choice(THINGS)
        return expand(rng.choice(STORY_REQUESTS), {"about": a(thing)}, rng), story(rng, thing=thing)
    kind = rng.choice((*BEINGS, "girl", "boy"))
    return expand(rng.choice(STORY_REQUESTS), {"about": a(kind)}, rng), story(rng, hero_kind=kind)


def training_question(rng: random.Random) -> Question:
    """The next question that is not held out."""
    while (drawn := question(rng)).held_out:
        pass
    return drawn


def document(rng: random.Random) -> list[Piece]:
    """One story, or one chat: mostly of few turns, now and then of many, so that long contexts occur."""
    draw = rng.random()
    if draw < PLAIN_STORIES:
        return [Piece(story(rng) + END, True)]
    pieces: list[Piece] = []
    if rng.random() < 0.08:
        pieces.append(Piece(SYSTEM + rng.choice(SYSTEM_PROMPTS) + END, False))
    turns: list[tuple[str, str]] = []
    if draw < PLAIN_STORIES + STORY_CHATS:
        turns.append(_story_request(rng))
    else:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)) if rng.random() < 0.97 else rng.randint(8, 20)):
            drawn = training_question(rng)
            turns.append((drawn.text, drawn.answer))
    for asked, answered in turns:
        pieces.append(Piece(USER + _as_typed(asked, rng) + END + ASSISTANT, False))
        pieces.append(Piece(answered + END, True))
    return pieces


def copying_documents(seed: int) -> Iterator[list[Piece]]:
    """Little texts and echoes alone, as many as wanted: what a word refers to is the first thing to learn."""
    rng = random.Random(seed)
    while True:
        drawn = rng.choice((owners, dwellers, echoes))(rng)
        if not drawn.held_out:
            yield [Piece(USER + drawn.text + END + ASSISTANT, False), Piece(drawn.answer + END, True)]


def documents(seed: int) -> Iterator[list[Piece]]:
    """The corpus: as many documents as wanted, always the same ones for a seed."""
    rng = random.Random(seed)
    while True:
        yield document(rng)
