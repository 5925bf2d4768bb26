"""One question with its answer, and whether training may see it.

A tenth of every kind is held out of training: for sums and comparisons by the numbers, whatever the wording; for
little texts by who owns what; for facts by the exact question, so that the fact is known but not asked in those words.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from woolly_worker.demo.phrases import expand, sentences


@dataclass(frozen=True, slots=True)
class Question:
    kind: str
    text: str
    answer: str
    key: str | None  # questions with the same key are all in training, or all out of it; None is always taught

    @property
    def held_out(self) -> bool:
        return self.key is not None and zlib.crc32(self.key.encode()) % 10 == 0


def ask(kind: str, question: str, answer: str, rng: random.Random, key: str | None = "", /, **slots: str) -> Question:
    """Fill both templates. Without a key, the exact text of the question is the key."""
    text = sentences(expand(question, slots, rng))
    return Question(kind, text, sentences(expand(answer, slots, rng)), text if key == "" else key)
