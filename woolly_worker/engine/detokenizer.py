"""Detokenizer: token ids -> pieces of text, holding back what is not certain yet.

Held back are the first bytes of a character that is not complete, and any end of the text that may be the beginning of
a stop string. So the pieces, put together, are the text of all tokens at once up to the first stop string, and no part
of a stop string is ever handed out. The result is a function of the ids pushed, nothing else: a resumed job replays its
ids and gets the same pieces.

It does not know when a sequence ends: the engine calls `flush` then. Bytes that are not UTF-8 become U+FFFD, as
`bytes.decode(errors="replace")` would do it for the whole. Text continues a prompt, so the blank at the beginning of
SentencePiece's first token stays.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a tokenizer."""

    def token_bytes(self, token_id: int) -> bytes: ...


class Detokenizer:
    def __init__(self, tokenizer: TokenBytes, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(dict.fromkeys(stop))
        assert all(self._stop), "an empty stop string would stop everything; requests are checked before"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._inside_stop = frozenset("".join(stop[:-1] for stop in self._stop))  # a cheap first test
        self._held = ""  # decoded, but may be the beginning of a stop string
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop string is complete. Nothing comes after a stop."""
        return self._advance(self._decoder.decode(self._tokenizer.token_bytes(token_id))), self._stopped

    def flush(self) -> str:
        """What was held back, once no token follows: the beginning of a stop string that did not come, and U+FFFD for
        an incomplete character (which may itself complete a stop string). Nothing after a stop."""
        text = self._advance(self._decoder.decode(b"", final=True))
        if not self._stopped:
            text, self._held = text + self._held, ""
        return text

    def _advance(self, new: str) -> str:
        if self._stopped or not new:
            return ""
        text = self._held + new
        # The stop string that is complete first ends the text; of two that end together, the longer one.
        complete = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if complete:
            _, begin = min(complete)
            self._stopped, self._held = True, ""
            return text[:begin]
        begin = self._open_stop(text)
        self._held = text[begin:]
        return text[:begin]

    def _open_stop(self, text: str) -> int:
        """Where the end of `text` begins that may still become a stop string; its length if there is none."""
        if text[-1] not in self._inside_stop:
            return len(text)
        longest = max(len(stop) for stop in self._stop) - 1
        for begin in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[begin:]) for stop in self._stop):
                return begin
        return len(text)
