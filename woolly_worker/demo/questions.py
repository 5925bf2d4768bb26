"""All kinds of questions, and how often each is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable

from woolly_worker.demo.asking import Question
from woolly_worker.demo.number_questions import (
    comparisons,
    counting,
    differences,
    doubles,
    how_many,
    neighbours,
    parity,
    sums,
    word_sums,
)
from woolly_worker.demo.text_questions import dwellers, manners, owners
from woolly_worker.demo.word_questions import calendar, echoes, listings, opposites, pasts, plurals
from woolly_worker.demo.world_questions import babies, capitals, categories, colours, definitions, homes, makers, sounds

# How often each kind is drawn.
KINDS: dict[Callable[[random.Random], Question], float] = {
    sums: 14, differences: 7, word_sums: 5, comparisons: 4, counting: 2, neighbours: 3, parity: 1.5, doubles: 1,
    how_many: 2, calendar: 4, listings: 0.7, opposites: 4, plurals: 2, pasts: 1.5, echoes: 5, sounds: 3, babies: 1.5,
    homes: 2.5, colours: 3.5, capitals: 3.5, definitions: 4.5, makers: 0.7, categories: 3, owners: 7, dwellers: 3,
    manners: 2.5,
}  # fmt: skip


def question(rng: random.Random) -> Question:
    """One question of any kind, held out or not."""
    (make,) = rng.choices(tuple(KINDS), tuple(KINDS.values()))
    return make(rng)
