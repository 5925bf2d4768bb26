"""Carries out a plan's commands with Woolly's forward pass alone: no engine, no sampling.

Token ids are random; where keys and values of earlier tokens are needed, they are copies of real ones, because the time
of a step does not depend on what they are.
"""

import ctypes
import statistics
import time
from pathlib import Path

import numpy as np
import psutil

from woolly_worker.bench.plan import STEP_TOKENS, Decode, Mixed, ModelCost, Prefill, Work
from woolly_worker.kernels.compile_ahead import CompileProgress
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVCache, blocks_for
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model

# Waking a thread took 5 ms on a virtual machine whose CPU had gone to sleep. (The peer does the same.)
WAKE_SECONDS = 0.02
FIRST_TOKEN = 3  # ids below are control tokens in most vocabularies


class Runner:
    """A model, ready for every command of `plan`. Raises ModelFileError for a file that cannot be run."""

    name = "woolly"

    def __init__(
        self, path: Path, plan: list[Work], *, n_threads: int, on_compile: CompileProgress = lambda n_ready, n_all: None
    ) -> None:
        self.config, self.weights = open_model(path)
        layout = kv_layout(self.config)
        n_slots = max(work.n_slots for work in plan)
        self.kv = KVCache(layout, max(work.n_slots * blocks_for(work.n_ctx) for work in plan))
        self.cost = ModelCost.of(self.config, self.weights, layout)
        self.transformer = Transformer(
            self.config,
            self.weights,
            self.kv,
            n_threads=n_threads,
            max_step_tokens=max(STEP_TOKENS, *(w.chunk + w.batch for w in plan if isinstance(w, Mixed)), n_slots),
            max_logit_rows=n_slots,
            max_slots=n_slots,
            n_ctx=max(BLOCK_TOKENS, *(work.n_ctx for work in plan)),
            on_compile=on_compile,
        )
        self._random = np.random.default_rng(7)
        self._fill()

    def close(self) -> None:
        self.transformer.close()
        self.weights.file.close()

    def run(self, work: Work) -> list[float]:
        """Seconds of every step of the work. Those before it do not count: they wake the threads."""
        seconds = 0.0
        while seconds < WAKE_SECONDS:
            seconds += self._first_block()
        self._place_blocks(work)
        if isinstance(work, Prefill):
            return self._prefill(work)
        if isinstance(work, Decode):
            return self._decode(work)
        return self._mixed(work)

    def _place_blocks(self, work: Work) -> None:
        """Every slot of the work has its own blocks, one after the other."""
        per_slot = blocks_for(work.n_ctx)
        tables = np.arange(work.n_slots * per_slot, dtype=np.int32).reshape(work.n_slots, per_slot)
        self.transformer.batch.block_tables[: work.n_slots, :per_slot] = tables

    def _fill(self) -> None:
        """Compute one KV block, and copy it into all others: memory that was never written is one page of zeros, in the
        cache for ever."""
        self._first_block()
        kv = self.kv
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * kv.n_bytes).from_address(kv.base))
        blocks = memory.reshape(kv.layout.n_layer, kv.n_blocks, -1)
        blocks[:, 1:] = blocks[:, :1]

    def _first_block(self) -> float:
        """Seconds to compute KV block 0."""
        self.transformer.batch.block_tables[0, 0] = 0
        return self._step([(0, position) for position in range(BLOCK_TOKENS)], n_logit_rows=1)

    def _step(self, tokens: list[tuple[int, int]], n_logit_rows: int) -> float:
        """Seconds of one step over (slot, position) pairs; logits are wanted of the last `n_logit_rows`."""
        batch, n = self.transformer.batch, len(tokens)
        batch.n_tokens, batch.n_logit_rows = n, n_logit_rows
        batch.token_ids[:n] = self._random.integers(FIRST_TOKEN, self.config.n_vocab, n)
        batch.slots[:n], batch.positions[:n] = zip(*tokens, strict=True)
        batch.logit_rows[:n_logit_rows] = np.arange(n - n_logit_rows, n)
        start = time.perf_counter()
        self.transformer.step()
        return time.perf_counter() - start

    def _prefill(self, work: Prefill) -> list[float]:
        seconds = []
        for first in range(0, work.n_tokens, STEP_TOKENS):
            last = min(first + STEP_TOKENS, work.n_tokens)
            tokens = [(0, position) for position in range(first, last)]
            seconds.append(self._step(tokens, n_logit_rows=int(last == work.n_tokens)))
        return seconds

    def _decode(self, work: Decode) -> list[float]:
        return [
            self._step([(slot, work.depth + i) for slot in range(work.batch)], n_logit_rows=work.batch)
            for i in range(work.n_steps)
        ]

    def _mixed(self, work: Mixed) -> list[float]:
        """The prompt's chunk comes first in the step, and the last chunk's last token wants logits as well."""
        seconds = []
        for i in range(work.n_steps):
            last = min((i + 1) * work.chunk, work.n_prompt)
            chunk = [(work.batch, position) for position in range(i * work.chunk, last)]
            decoding = [(slot, i) for slot in range(work.batch)]
            seconds.append(self._step(chunk + decoding, n_logit_rows=work.batch + int(last == work.n_prompt)))
        return seconds


def affordable(path: Path, plan: list[Work], *, with_peer: bool) -> list[Work]:
    """The part of the plan whose keys and values fit into memory that is free now.

    Woolly takes memory for the largest work. A peer keeps a context for each, and may keep the weights twice.
    """
    config, weights = open_model(path)
    weights.file.close()
    left = psutil.virtual_memory().available * 3 // 4 - path.stat().st_size * (2 if with_peer else 1)
    block_bytes, largest, kept = kv_layout(config).block_bytes, 0, []
    for work in plan:
        n_bytes = work.n_slots * blocks_for(work.n_ctx) * block_bytes
        if max(largest, n_bytes) + (n_bytes if with_peer else 0) <= left:
            largest = max(largest, n_bytes)
            left -= n_bytes if with_peer else 0
            kept.append(work)
    return kept


def seconds_of(work: Work, steps: list[float]) -> float:
    """What counts of the steps' times: of a decode the median step, times their number; of all else the sum."""
    return len(steps) * statistics.median(steps) if isinstance(work, Decode) else sum(steps)
