"""What a request must satisfy before the engine takes it: it fits, and every id in it exists.

A request that could not be served if it were alone is refused here, with the two numbers. One that only has to wait is
none of this file's business.
"""

from collections.abc import Collection
from dataclasses import dataclass

from woolly_worker.contract.context import check_fits
from woolly_worker.contract.errors import InvalidRequest, PoolExhausted
from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.engine.events import EngineRequest
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, blocks_for


@dataclass(frozen=True, slots=True)
class Limits:
    """n_ctx: positions of the model; n_blocks: the whole KV pool; n_vocab: rows of logits are this wide."""

    n_ctx: int
    n_blocks: int
    n_vocab: int

    @property
    def longest(self) -> int:
        """Tokens, prompt and completion together, of the longest request that is served. The last one is given out,
        never computed, so it needs no place in a block."""
        return min(self.n_ctx, self.n_blocks * BLOCK_TOKENS + 1)

    def max_ids(self, request: EngineRequest) -> int:
        """Tokens, prompt and completion together, at which the request ends. Raises if it can never be served.

        Without max_tokens that is as many as the context holds, or the KV pool where that is smaller.
        """
        n_prompt, wanted = len(request.prompt_ids), request.sampling.max_tokens
        if n_prompt == 0:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        check_fits(self.n_ctx, n_prompt=n_prompt, max_tokens=wanted)
        end = n_prompt + (wanted if wanted is not None else 1)
        n_blocks = blocks_for(end - 1)  # the last token is given out, never computed
        if n_blocks > self.n_blocks:
            raise PoolExhausted(
                f"the request needs {n_blocks:,} KV blocks, this worker has {self.n_blocks:,} in all",
                details={"n_blocks_needed": n_blocks, "n_blocks": self.n_blocks},
            )
        return end if wanted is not None else min(self.n_ctx, self.n_blocks * BLOCK_TOKENS)

    def check_ids(self, request: EngineRequest) -> None:
        _check_range("prompt", request.prompt_ids, self.n_vocab)
        _check_range("resume_ids", request.resume_ids, self.n_vocab)
        _check_range("sampling.logit_bias", request.sampling.logit_bias, self.n_vocab)


def check_sampling(sampling: SamplingParams) -> None:
    if sampling.seed is None:
        raise InvalidRequest("the seed is drawn at submit, here it is missing", param="sampling.seed")


def _check_range(param: str, ids: Collection[int], n_vocab: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        bad = next(i for i in ids if not 0 <= i < n_vocab)
        name = param.removeprefix("sampling.")  # OpenAI's bodies have it without
        raise InvalidRequest(f"'{name}' has token id {bad}, the vocabulary has {n_vocab:,}", param=param)
