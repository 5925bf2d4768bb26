"""Sampler: a row of logits in, a token id out, through the chain that users of llama.cpp know.

    logit bias -> repetition, presence, frequency penalty -> temperature -> top-k -> top-p -> min-p -> draw

Temperature 0 takes the best token after the penalties. The stages are in `stages.py`. The row is never written, and
the result depends on nothing but the row, the parameters, the tokens so far and the position: not on the batch.

Logprobs are of the model itself: the log-softmax of its raw logits, before bias, penalties and temperature, as
OpenAI's and llama.cpp's users expect. They are rounded to six decimals.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from woolly_worker.contract.errors import InternalError
from woolly_worker.contract.jobs import SamplingParams
from woolly_worker.engine import stages
from woolly_worker.engine.counter_rng import uniform
from woolly_worker.memory.pool import BufferPool, aligned

Floats = NDArray[Any]

_LOGPROB_DIGITS = 6


class Logprobs(NamedTuple):
    chosen: float
    top: list[tuple[int, float]]  # (token id, logprob), best first, the lowest id among equals


class SeenTokens:
    """Which tokens a sequence has seen and how often each was generated; kept only where a penalty asks for it."""

    __slots__ = ("_counts", "_ids", "_index", "_n")

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        ids = sorted(set(prompt_ids))
        self._index = {token_id: i for i, token_id in enumerate(ids)}
        self._n = len(ids)
        self._ids = np.array(ids, dtype=np.intp)
        self._counts = np.zeros(len(ids), dtype=np.float64)

    def add(self, token_id: int) -> None:
        """Count a generated token."""
        i = self._index.setdefault(token_id, self._n)
        if i == self._n:
            if i == len(self._ids):
                self._ids = np.resize(self._ids, 2 * i + 16)
                self._counts = np.resize(self._counts, 2 * i + 16)
            self._ids[i] = token_id
            self._counts[i] = 0
            self._n += 1
        self._counts[i] += 1

    @property
    def ids(self) -> NDArray[np.intp]:
        return self._ids[: self._n]

    @property
    def counts(self) -> Floats:
        return self._counts[: self._n]


def needs_seen_tokens(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


class Sampler:
    """Leases the scratch that the chain needs for as long as it works on a token. One thread at a time."""

    def __init__(self, n_vocab: int, pool: BufferPool | None = None) -> None:
        self._n_vocab = n_vocab
        self._pool = pool or BufferPool(self.scratch_bytes(n_vocab))

    @staticmethod
    def scratch_bytes(n_vocab: int) -> int:
        """A row of changed logits, one of weights, and two chunks."""
        return 2 * aligned(4 * n_vocab) + aligned(2 * 4 * min(n_vocab, stages.CHUNK_TOKENS))

    def sample(self, logits: Floats, params: SamplingParams, seen: SeenTokens | None, position: int) -> int:
        """The token at `position` of the completion (from 0)."""
        if params.logit_bias or seen is not None:
            with self._pool.lease(self._n_vocab, np.float32) as changed:
                self._penalize(logits, params, seen, changed)
                return self._choose(changed, params, position)
        return self._choose(logits, params, position)

    def _choose(self, logits: Floats, params: SamplingParams, position: int) -> int:
        best = stages.greedy(logits)
        if not math.isfinite(logits[best]):
            raise InternalError("the model's logits are not finite")
        if params.temperature == 0 or params.top_k == 1:
            return best
        return self._draw(logits, params, position)

    def logprobs(self, logits: Floats, token_id: int, n_top: int) -> Logprobs:
        """Of `token_id`, and of the `n_top` most probable tokens."""
        with self._softmax_buffers() as (weights, scratch):
            stages.softmax_weights(logits, 1.0, weights, scratch)
            norm = float(logits.max()) + math.log(stages.block_sums(weights).sum())
        top = stages.top_k(logits, n_top) if n_top else np.empty(0, dtype=np.intp)
        top = top[np.argsort(-logits[top], kind="stable")]
        return Logprobs(
            round(float(logits[token_id]) - norm, _LOGPROB_DIGITS),
            [(int(i), round(float(logits[i]) - norm, _LOGPROB_DIGITS)) for i in top],
        )

    def _penalize(self, logits: Floats, params: SamplingParams, seen: SeenTokens | None, out: Floats) -> None:
        np.copyto(out, logits)
        for token_id, bias in params.logit_bias.items():
            out[token_id] = stages.bounded(logits[token_id].astype(np.float64) + bias)
        if seen is not None:
            values = out[seen.ids].astype(np.float64)
            if params.repetition_penalty != 1:
                values = stages.penalize_repetition(values, params.repetition_penalty)
            if params.presence_penalty != 0:
                values = stages.penalize_presence(values, seen.counts, params.presence_penalty)
            if params.frequency_penalty != 0:
                values = stages.penalize_frequency(values, seen.counts, params.frequency_penalty)
            out[seen.ids] = stages.bounded(values)

    def _draw(self, logits: Floats, params: SamplingParams, position: int) -> int:
        assert params.seed is not None, "the seed is drawn at submit"
        with self._softmax_buffers() as (all_weights, scratch):
            ids = None  # None: all of them
            if 0 < params.top_k < len(logits):
                ids = stages.top_k(logits, params.top_k)
                logits = logits[ids]
            weights = all_weights[: len(logits)]
            stages.softmax_weights(logits, params.temperature, weights, scratch)
            if params.top_p < 1:
                kept = stages.top_p(weights, params.top_p)
                ids, weights = (kept if ids is None else ids[kept]), weights[kept]
            if params.min_p > 0:
                kept = stages.min_p(weights, params.min_p)
                ids, weights = (kept if ids is None else ids[kept]), weights[kept]
            index = stages.draw(weights, uniform(params.seed, position))
            return index if ids is None else int(ids[index])

    @contextlib.contextmanager
    def _softmax_buffers(self) -> Iterator[tuple[Floats, Floats]]:
        with (
            self._pool.lease(self._n_vocab, np.float32) as weights,
            self._pool.lease((2, min(self._n_vocab, stages.CHUNK_TOKENS)), np.float32) as scratch,
        ):
            yield weights, scratch
