"""A very small template language for the corpus: `[this|that]` chooses, `{name}` fills in. It knows no grammar.

Choices may nest and may be empty: `[very |]big`. A slot that nobody filled is an error, never an empty string.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

_CHOICE = re.compile(r"\[([^\[\]]*)\]")  # an innermost choice: one without another inside
_SLOT = re.compile(r"\{(\w+)\}")
# A lower-case letter that begins the line or a sentence, also inside a quotation that opens there. What follows a
# closing quotation mark keeps its case: `"Where is it?" he asked.`
_SENTENCE_START = re.compile(r"""(^"?|[.!?:] "?)([a-z])""")


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Choose in every bracket, then fill every slot; what was filled in is not read again."""
    while match := _CHOICE.search(template):
        chosen = rng.choice(match[1].split("|"))
        template = template[: match.start()] + chosen + template[match.end() :]
    return _SLOT.sub(lambda slot: slots[slot[1]], template)


def sentences(text: str) -> str:
    """Capitals where sentences begin, and single spaces."""
    text = re.sub(r"\s+", " ", text).strip()
    return _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)


def a(noun: str) -> str:
    """`a` or `an` before a word, by its first letter; the corpus has no `hour` and no `unicorn`."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def listing(words: Sequence[str]) -> str:
    """`one, two and three`."""
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + " and " + words[-1]
