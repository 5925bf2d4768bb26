"""Drives a transformer by hand: which tokens go into which step, and where their keys and values lie.

A `Bench` is a model with its KV blocks. It is told steps as lists of pieces, (sequence, how many more tokens), and
keeps each sequence's logits row by row, so that one history can be compared with another bit for bit.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from woolly_worker.memory.kv_cache import KVCache, KVType, blocks_for
from woolly_worker.model.baseline import Baseline
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model

Floats = npt.NDArray[np.float32]
Piece = tuple[int, int]  # the sequence, and how many of its next tokens


class Bench:
    def __init__(
        self,
        path: Path,
        *,
        n_threads: int = 1,
        max_step_tokens: int = 512,
        max_slots: int = 8,
        n_ctx: int = 256,
        kv_dtype: KVType = "f16",
        baseline: bool = False,
    ) -> None:
        self.config, self.weights = open_model(path)
        self.n_ctx, self.max_slots = n_ctx, max_slots
        self.kv = KVCache(kv_layout(self.config, kv_dtype), max_slots * blocks_for(n_ctx))
        sizes = {
            "max_step_tokens": max_step_tokens,
            "max_logit_rows": max_step_tokens,
            "max_slots": max_slots,
            "n_ctx": n_ctx,
        }
        self.transformer: Transformer | Baseline
        if baseline:
            self.transformer = Baseline(self.config, self.weights, n_blocks=self.kv.n_blocks, **sizes)
        else:
            # alone_below: also tiny steps are shared by all threads
            self.transformer = Transformer(
                self.config, self.weights, self.kv, n_threads=n_threads, alone_below=0, **sizes
            )
        self.place_blocks()

    def place_blocks(self, seed: int | None = None) -> None:
        """Every slot's blocks: in order, or shuffled over the whole pool."""
        tables = np.arange(self.kv.n_blocks, dtype=np.int32)
        if seed is not None:
            tables = np.random.default_rng(seed).permutation(tables)
        self.transformer.batch.block_tables[:] = tables.reshape(self.max_slots, -1)

    def run(self, sequences: Sequence[Sequence[int]], steps: Iterable[Sequence[Piece]]) -> list[Floats]:
        """Sequence i has slot i. Returns every sequence's logits, one row for each token that was computed."""
        done = [0] * len(sequences)
        logits: list[list[Floats]] = [[] for _ in sequences]
        batch = self.transformer.batch
        for pieces in steps:
            row, owners = 0, []
            for sequence, n in pieces:
                start = done[sequence]
                ids = sequences[sequence][start : start + n]
                rows = slice(row, row + len(ids))
                batch.token_ids[rows] = ids
                batch.positions[rows] = np.arange(start, start + len(ids))
                batch.slots[rows] = sequence
                done[sequence] += len(ids)
                owners += [sequence] * len(ids)
                row += len(ids)
            batch.n_tokens = batch.n_logit_rows = row
            batch.logit_rows[:row] = np.arange(row)
            result = self.transformer.step()
            for sequence, values in zip(owners, result, strict=True):
                logits[sequence].append(values.copy())
        width = self.config.n_vocab
        return [np.stack(rows) if rows else np.empty((0, width), np.float32) for rows in logits]

    def logits(self, ids: Sequence[int], chunk: int | None = None) -> Floats:
        """One sequence alone, in chunks."""
        size = chunk or len(ids)
        return self.run([ids], [[(0, size)] for _ in range(0, len(ids), size)])[0]

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n most likely continuations, token by token."""
        sequence = list(ids)
        batch = self.transformer.batch
        chunk = list(ids)
        for _ in range(n):
            start = len(sequence) - len(chunk)
            batch.token_ids[: len(chunk)] = chunk
            batch.positions[: len(chunk)] = np.arange(start, len(sequence))
            batch.slots[: len(chunk)] = 0
            batch.n_tokens, batch.n_logit_rows = len(chunk), 1
            batch.logit_rows[0] = len(chunk) - 1
            chunk = [int(self.transformer.step()[0].argmax())]
            sequence += chunk
        return sequence[len(ids) :]

    def close(self) -> None:
        self.transformer.close()
        self.weights.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
