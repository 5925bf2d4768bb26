"""Sequence: a job while the engine has it. Tokens, KV blocks, held-back text, and how far it is.

It decides nothing: the scheduler moves it, the engine ends it.

    ids      prompt and completion so far
             |<--- n_computed --->|<- pending ->|     keys and values of the first are in `blocks`
             |<- committed ->|                        full blocks that the prefix index knows

There are no phases. A sequence whose pending tokens are one is decoding; with more it is in prefill, be it of a
prompt, of a resumed job, or of tokens whose blocks were taken away.
"""

from enum import Enum, auto

from woolly_worker.contract.jobs import Usage
from woolly_worker.engine.detokenizer import Detokenizer, TokenBytes
from woolly_worker.engine.events import EngineRequest
from woolly_worker.engine.metrics import SequenceMeter
from woolly_worker.engine.sampler import SeenTokens, needs_seen_tokens
from woolly_worker.memory.prefix_cache import ROOT


class SequenceStatus(Enum):
    WAITING = auto()  # for a slot or for KV blocks
    RUNNING = auto()
    ENDED = auto()


class Sequence:
    __slots__ = (
        "blocks",
        "deadline_at",
        "detokenizer",
        "ids",
        "key",
        "logit_row",
        "max_ids",
        "meter",
        "n_committed_blocks",
        "n_computed",
        "n_prompt",
        "n_scheduled",
        "node",
        "request",
        "sampling",
        "seen",
        "slot",
        "status",
        "ticked_at",
    )

    def __init__(self, request: EngineRequest, *, max_ids: int, tokenizer: TokenBytes, now: float) -> None:
        self.request = request
        self.sampling = request.sampling
        self.key = (request.job_id, request.fence)
        self.ids = [*request.prompt_ids, *request.resume_ids]
        self.n_prompt = len(request.prompt_ids)
        self.max_ids = max_ids  # prompt and completion never get longer
        self.deadline_at = None if request.deadline_seconds is None else now + request.deadline_seconds
        self.ticked_at = now
        self.meter = SequenceMeter(now)
        self.status = SequenceStatus.WAITING
        self.slot = 0  # means something only while it runs, as `n_scheduled` and `logit_row` do within a step
        self.n_scheduled = 0
        self.logit_row: int | None = None
        self.forget_blocks()

        # What an earlier owner emitted is replayed, so that text and penalties go on as if nothing had happened.
        self.detokenizer = Detokenizer(tokenizer, request.sampling.stop)
        self.seen = SeenTokens(request.prompt_ids) if needs_seen_tokens(request.sampling) else None
        for token_id in request.resume_ids:
            self.detokenizer.push(token_id)
            if self.seen is not None:
                self.seen.add(token_id)

    def forget_blocks(self) -> None:
        """As if nothing had been computed. Who calls this has released the blocks."""
        self.blocks: list[int] = []
        self.n_computed = 0
        self.n_committed_blocks = 0
        self.node = ROOT

    @property
    def n_generated(self) -> int:
        return len(self.ids) - self.n_prompt

    @property
    def n_pending(self) -> int:
        return len(self.ids) - self.n_computed

    @property
    def is_on_probation(self) -> bool:
        until = self.request.alone_until
        return until is not None and self.n_generated < until

    @property
    def is_at_limit(self) -> bool:
        return len(self.ids) >= self.max_ids

    def append(self, token_id: int) -> tuple[str, bool]:
        """Take a generated token. Returns the text that is now certain, and whether a stop string is complete."""
        self.ids.append(token_id)
        if self.seen is not None:
            self.seen.add(token_id)
        return self.detokenizer.push(token_id)

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.n_prompt,
            completion_tokens=self.n_generated,
            total_tokens=len(self.ids),
            cached_tokens=min(self.meter.n_cached_tokens or 0, self.n_prompt),
        )
