"""A worker's own benchmark: measured beside its engine, on the same mapped weights, with buffers of its own.

It shares the CPUs with running jobs, so both become slower, but no memory that either writes: what jobs say does not
change. The baseline is slow, so it runs as briefly as gives a number.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from woolly_worker.bench.matmul import KernelMatmul, NaiveMatmul
from woolly_worker.contract.benchmarks import BenchmarkType
from woolly_worker.contract.errors import JobCancelled
from woolly_worker.memory.kv_cache import KVCache, blocks_for
from woolly_worker.memory.pool import BufferPool
from woolly_worker.model.baseline import Baseline
from woolly_worker.model.config import ModelConfig
from woolly_worker.model.transformer import Transformer, kv_layout
from woolly_worker.model.weights import Weights

BASELINE_SECONDS = 1.0  # then one iteration more is the last
BUFFER_BYTES = 1 << 20
PAGE_FLOATS = 1024

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a worker serves. `is_naive`: it serves with the baseline, so that is what is measured."""

    config: ModelConfig
    weights: Weights
    n_threads: int
    is_naive: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    what: str
    n_threads: int
    seconds: float  # all iterations
    baseline_iterations: int
    baseline_average: float  # seconds


def measure(subject: Subject, kind: BenchmarkType, iterations: int, stop: Stop = lambda: False) -> Measured:
    """Raises JobCancelled once `stop()` says that the worker ends, and UnsupportedArchitecture where there is no
    baseline to compare with."""
    if kind is BenchmarkType.TOKEN_GENERATION:
        return _token_generation(subject, iterations, stop)
    if kind is BenchmarkType.MATRIX_MULTIPLICATION:
        return _matrix_multiplication(subject, iterations, stop)
    return _memory_allocation(iterations, stop)


def _timed(once: Callable[[], object], iterations: int, stop: Stop, within: float = float("inf")) -> tuple[int, float]:
    """How many iterations were run, and in how many seconds; none is begun after `within` seconds."""
    start, n = time.perf_counter(), 0
    while n < iterations and (n == 0 or time.perf_counter() - start < within):
        if stop():
            raise JobCancelled("the worker stops")
        once()
        n += 1
    return n, time.perf_counter() - start


def _token_generation(subject: Subject, iterations: int, stop: Stop) -> Measured:
    config, weights = subject.config, subject.weights
    n_ctx = iterations
    sizes: dict[str, Any] = {"max_step_tokens": 1, "max_logit_rows": 1, "max_slots": 1, "n_ctx": n_ctx}
    baseline = Baseline(config, weights, n_blocks=blocks_for(n_ctx), **sizes)
    ours: Baseline | Transformer = baseline
    if not subject.is_naive:
        kv = KVCache(kv_layout(config), blocks_for(n_ctx))
        ours = Transformer(config, weights, kv, n_threads=subject.n_threads, **sizes)
    try:
        _, seconds = _timed(_Greedy(ours), iterations, stop)
        n, baseline_seconds = _timed(_Greedy(baseline), iterations, stop, BASELINE_SECONDS)
    finally:
        ours.close()
    return Measured(
        "greedy tokens of one sequence from an empty context, forward pass and choice, beside the naive forward pass",
        subject.n_threads,
        seconds,
        n,
        baseline_seconds / n,
    )


class _Greedy:
    """Every call adds the most likely token to a sequence that begins with token 0."""

    def __init__(self, forward: Transformer | Baseline) -> None:
        self._forward, self._position = forward, 0
        batch = forward.batch
        batch.n_tokens = batch.n_logit_rows = 1
        batch.token_ids[0] = 0
        n_blocks = batch.block_tables.shape[1]
        batch.block_tables[0] = np.arange(n_blocks)

    def __call__(self) -> None:
        batch = self._forward.batch
        batch.positions[0] = self._position
        batch.token_ids[0] = self._forward.step()[0].argmax()
        self._position += 1


def _matrix_multiplication(subject: Subject, iterations: int, stop: Stop) -> Measured:
    matrix = subject.weights.layers[0].ffn_up
    naive = NaiveMatmul(matrix, 1)
    what = f"{matrix.name}, {matrix.n_rows} x {matrix.n_cols} in {matrix.type.name}, times one token, beside the loop"
    if subject.is_naive:
        _, seconds = _timed(naive.run, iterations, stop)
    else:
        ours = KernelMatmul(matrix, 1, n_threads=subject.n_threads)
        try:
            _, seconds = _timed(ours.run, iterations, stop)
        finally:
            ours.close()
    n, baseline_seconds = _timed(naive.run, iterations, stop, BASELINE_SECONDS)
    return Measured(what, subject.n_threads, seconds, n, baseline_seconds / n)


def _memory_allocation(iterations: int, stop: Stop) -> Measured:
    pool, n = BufferPool(BUFFER_BYTES), BUFFER_BYTES // 4

    def leased() -> None:
        with pool.lease(n, np.float32) as buffer:
            buffer[::PAGE_FLOATS] = 1  # a buffer that nobody writes would cost nothing

    def allocated() -> None:
        np.zeros(n, np.float32)[::PAGE_FLOATS] = 1

    _, seconds = _timed(leased, iterations, stop)
    done, baseline_seconds = _timed(allocated, iterations, stop, BASELINE_SECONDS)
    what = f"{BUFFER_BYTES} bytes leased from a BufferPool and given back, each page written, beside numpy.zeros"
    return Measured(what, 1, seconds, done, baseline_seconds / done)
