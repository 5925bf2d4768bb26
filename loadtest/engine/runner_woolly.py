"""Runs a model in Woolly for `compare.py`: one command as JSON per line on standard input, one answer per line.

    {"do": "prefill", "n": 512}                     seconds for a prompt of n tokens, logits of the last one
    {"do": "decode", "n": 32, "depth": 64, "batch": 8}   median seconds of a step that adds a token to each sequence
    {"do": "bandwidth"}                             bytes per second that the threads read from memory together

It uses the forward pass alone: no engine, no sampling.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from typing import Any

import numpy as np

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import add, hsum, load_i32x16, prefetch, zero_i32x16
from woolly_worker.memory.kv_cache import KVCache, blocks_for
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import open_model


@kernel
def read_all(address, n_bytes):  # type: ignore[no-untyped-def]
    """The sum of everything, four vectors at a time: as fast as memory delivers."""
    a = b = c = d = zero_i32x16()
    for i in range(0, n_bytes, 256):
        prefetch(address + i + 1024)
        prefetch(address + i + 1088)
        prefetch(address + i + 1152)
        prefetch(address + i + 1216)
        a = add(a, load_i32x16(address + i))
        b = add(b, load_i32x16(address + i + 64))
        c = add(c, load_i32x16(address + i + 128))
        d = add(d, load_i32x16(address + i + 192))
    return hsum(add(add(a, b), add(c, d)))


class Runner:
    def __init__(self, path: str, n_threads: int, n_ctx: int, max_batch: int) -> None:
        config, weights = open_model(path)
        per_slot = blocks_for(n_ctx)
        kv = KVCache(kv_layout(config), max_batch * per_slot)
        self.transformer = Transformer(
            config,
            weights,
            kv,
            n_threads=n_threads,
            max_step_tokens=512,
            max_logit_rows=max_batch,
            max_slots=max_batch,
            n_ctx=n_ctx,
        )
        self.n_threads = n_threads
        self.n_vocab = config.n_vocab
        blocks = np.arange(max_batch * per_slot, dtype=np.int32)
        self.transformer.batch.block_tables[:] = blocks.reshape(max_batch, per_slot)
        self.random = np.random.default_rng(7)
        self._read = np.ones(1 << 26, np.uint64)  # 512 MB, far beyond any cache

    def prefill(self, n: int) -> float:
        batch = self.transformer.batch
        start = time.perf_counter()
        for first in range(0, n, 512):
            count = min(512, n - first)
            batch.n_tokens, batch.n_logit_rows = count, int(first + count == n)
            batch.token_ids[:count] = self.random.integers(3, self.n_vocab, count)
            batch.positions[:count] = np.arange(first, first + count)
            batch.slots[:count] = 0
            batch.logit_rows[0] = count - 1
            self.transformer.step()
        return time.perf_counter() - start

    def decode(self, n: int, depth: int, batch: int) -> float:
        """Keys and values before `depth` are whatever the blocks hold: the time does not depend on them."""
        b = self.transformer.batch
        b.n_tokens = b.n_logit_rows = batch
        b.slots[:batch] = b.logit_rows[:batch] = np.arange(batch)
        seconds = []
        for i in range(n):
            b.token_ids[:batch] = self.random.integers(3, self.n_vocab, batch)
            b.positions[:batch] = depth + i
            start = time.perf_counter()
            self.transformer.step()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def bandwidth(self) -> float:
        """The best of five: the limit, not what was left of it at that moment."""
        return max(self._read_once() for _ in range(5))

    def _read_once(self) -> float:
        piece = self._read.nbytes // self.n_threads // 256 * 256
        first = self._read.ctypes.data
        read_all(first, 256)  # compiled before the clock starts
        threads = [threading.Thread(target=read_all, args=(first + i * piece, piece)) for i in range(self.n_threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return piece * self.n_threads / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-ctx", type=int, default=2048)
    parser.add_argument("--max-batch", type=int, default=16)
    options = parser.parse_args()
    runner = Runner(options.model, options.threads, options.n_ctx, options.max_batch)
    print(json.dumps({"ready": "woolly"}), flush=True)
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        value = getattr(runner, command.pop("do"))(**command)
        print(json.dumps({"value": value}), flush=True)


if __name__ == "__main__":
    main()
