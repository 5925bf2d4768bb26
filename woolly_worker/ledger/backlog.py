"""The queue of a model, as a forecast: what a job may cost, and how long it takes until so many have been started.

The unit is the token that a job *may* take: its prompt, and all that it may generate. Most jobs end earlier, and prompt
tokens are cheaper than generated ones; that does not matter for times, because the speed is measured in the same unit
(shared.lua, measure_drain): tokens of the jobs that ended, over the time in which they did while others waited.

Everything here is made from one read of the lanes' hash; no job is looked at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Self

from woolly_worker.contract.jobs import JobRequest
from woolly_worker.ledger.views import count_of

# Estimates, because a prompt is tokenized by the worker. English has about four bytes of UTF-8 a token.
BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 8  # what a chat template puts around a turn
UNLIMITED_COMPLETION_TOKENS = 512  # of a job without max_tokens, which may fill the context, but seldom does

MIN_DRAIN_MS = 1.0
MOST_EVIDENCE_JOBS = 32  # half of what measure_drain remembers


def cost_tokens(request: JobRequest) -> int:
    """Tokens that the job may take. Exact for a prompt of token ids and a `max_tokens` that is used up."""
    if isinstance(request.prompt, tuple):
        prompt = len(request.prompt)
    elif request.prompt is not None:
        prompt = _tokens_of(request.prompt)
    else:
        prompt = sum(TOKENS_PER_MESSAGE + _tokens_of(message.content) for message in request.messages or ())
    return prompt + (request.sampling.max_tokens or UNLIMITED_COMPLETION_TOKENS)


def _tokens_of(text: str) -> int:
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The queued jobs of one model together. Which of them come before a given one says place.lua."""

    queued: int
    queued_tokens: int
    running: int
    tokens_per_second: float | None  # measured; None as long as no job ended while another waited

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        names = ("all:queued", "all:queued_tokens", "all:running")
        queued, queued_tokens, running = (max(0, count_of(fields, name)) for name in names)
        tokens, milliseconds = _measured(fields, "drain:tokens"), _measured(fields, "drain:ms")
        # Of jobs that began together the shortest end first, while the work on the others does not show yet: until as
        # much has ended as is running, the speed would be far too low.
        enough = min(running, MOST_EVIDENCE_JOBS) * queued_tokens / max(1, queued)
        return cls(
            queued=queued,
            queued_tokens=queued_tokens,
            running=running,
            tokens_per_second=1000 * tokens / max(milliseconds, MIN_DRAIN_MS) if tokens and tokens >= enough else None,
        )

    @property
    def mean_tokens(self) -> float:
        """Of a waiting job."""
        return self.queued_tokens / self.queued if self.queued else 0.0

    def start_seconds(self, ahead: int, *, slots: int, tokens_per_second: float | None) -> float | None:
        """Until a job with so many before it is claimed, if all that wait are alike. `slots` of the live workers;
        `tokens_per_second` is taken as long as the backlog has none of its own. None when neither knows.

        Each job ahead, and this one, takes a slot that is free or the next to become free."""
        free = max(0, slots - self.running)
        if ahead < free:
            return 0.0
        speed = self.tokens_per_second or tokens_per_second
        if not speed:
            return None
        return (ahead + 1 - free) * self.mean_tokens / speed

    def room_seconds(self, jobs: int, tokens: int, *, tokens_per_second: float | None) -> float | None:
        """Until so many jobs and tokens of the backlog are gone. None when the speed is not known."""
        speed = self.tokens_per_second or tokens_per_second
        return max(jobs * self.mean_tokens, tokens) / speed if speed else None


def _measured(fields: Mapping[str, str], name: str) -> float:
    """As measure_drain writes it; what is none of that counts nothing."""
    text = fields.get(name, "0")
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d+)?", text) else 0.0
