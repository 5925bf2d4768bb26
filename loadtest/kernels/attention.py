"""Measures attention alone: how fast keys and values are read, and how many products come of it.

    python loadtest/kernels/attention.py                          # decode, one sequence
    python loadtest/kernels/attention.py --tokens 512 --depth 2048 --kv f16

A step is attention of as many layers as hold 128 MB of keys and values, so that they come from memory as they do
between a model's other layers. It is compared with two limits that are measured first: bytes per second of a plain
read loop, and f32 products per second of registers alone. q8_0 and q4_0 multiply integers, which may exceed the second.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.probes import read_all
from woolly_worker.kernels.simd import add, fma, hsum, splat_f32x16
from woolly_worker.kernels.step import BLOCK_TABLES, BLOCKS_PER_SLOT, N_TOKENS, POSITIONS, SLOTS
from woolly_worker.kernels.team import Team
from woolly_worker.memory.kv_cache import KV_TYPES, KVCache, KVLayout, KVType, blocks_for, padded_head_dim
from woolly_worker.model.program import Program, rows_for

LEAST_BYTES = 128 << 20


@dataclass(frozen=True)
class Shape:
    n_head: int
    n_head_kv: int
    head_dim: int


SHAPES = {
    "32x64/4": Shape(32, 4, 64),  # TinyLlama: eight queries share a key
    "32x128/8": Shape(32, 8, 128),  # Llama 3 8B: four
    "32x128/32": Shape(32, 32, 128),  # Llama 2 7B: one
    "12x64/12": Shape(12, 12, 64),  # one
}


@kernel
def multiply_all(n):  # type: ignore[no-untyped-def]
    """8 n vectors of products, in eight chains."""
    x = splat_f32x16(np.float32(0.5))
    a = b = c = d = e = f = g = h = x
    for _ in range(n):
        a, b, c, d = fma(a, x, x), fma(b, x, x), fma(c, x, x), fma(d, x, x)
        e, f, g, h = fma(e, x, x), fma(f, x, x), fma(g, x, x), fma(h, x, x)
    return hsum(add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h))))


def best_of(n: int, n_threads: int, work: Callable[[int], object]) -> float:
    """Seconds of the fastest of n runs of `work(thread)` on every thread."""
    seconds = []
    for _ in range(n):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def limits(n_threads: int) -> tuple[float, float]:
    """Bytes and f32 products per second."""
    memory = np.ones(1 << 25, np.uint64)
    piece = memory.nbytes // n_threads // 256 * 256
    first = int(memory.ctypes.data)
    read_all(first, 256)
    multiply_all(1)
    read = best_of(4, n_threads, lambda i: read_all(first + i * piece, piece))
    n = 20_000_000
    multiplied = best_of(3, n_threads, lambda i: multiply_all(n))
    return memory.nbytes / read, 128 * n * n_threads / multiplied


def measure(shape: Shape, dtype: KVType, depth: int, n_tokens: int, n_threads: int) -> tuple[float, float]:
    """Median seconds of one layer's attention, and the bytes of keys and values that it reads."""
    n_ctx = depth + n_tokens
    padded = padded_head_dim(shape.head_dim, dtype)
    n_blocks = blocks_for(n_ctx)
    layer_bytes = n_blocks * KVLayout(1, shape.n_head_kv, padded, dtype).block_bytes
    n_layer = max(1, -(-LEAST_BYTES // layer_bytes))
    kv = KVCache(KVLayout(n_layer, shape.n_head_kv, padded, dtype), n_blocks)
    kv._memory.flags.writeable = True  # ordinary numbers in every type: untouched pages would all be one page of zeros
    kv._memory[:] = 0x2D
    program = Program(n_threads, kv, n_head=shape.n_head, head_dim=shape.head_dim, n_ctx=n_ctx)
    width = shape.n_head * shape.head_dim
    q, out = rows_for(n_tokens, width), rows_for(n_tokens, width)
    q.array()[:] = np.random.default_rng(1).standard_normal((n_tokens, width))
    for layer in range(n_layer):
        program.attention(q, into=out, layer=layer)
    team = Team(program.array(), n_threads)
    positions, slots = np.arange(depth, n_ctx, dtype=np.int32), np.zeros(n_tokens, np.int32)
    table = np.random.default_rng(2).permutation(n_blocks).astype(np.int32)
    fields: dict[int, Any] = {N_TOKENS: n_tokens, BLOCKS_PER_SLOT: n_blocks}
    fields |= {POSITIONS: positions.ctypes.data, SLOTS: slots.ctypes.data, BLOCK_TABLES: table.ctypes.data}
    for index, value in fields.items():
        team.step[index] = value
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 3 or (len(seconds) < 15 and time.perf_counter() - begin < 1.0):
        start = time.perf_counter()
        team.run()
        seconds.append((time.perf_counter() - start) / n_layer)
    team.close()
    return statistics.median(seconds), float(layer_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--kv", nargs="+", choices=KV_TYPES, default=["f16", "q8_0", "q4_0"])
    parser.add_argument("--depth", nargs="+", type=int, default=[512, 4096, 16384])
    parser.add_argument("--tokens", type=int, default=1, help="1 is decode, more a chunk of a prompt")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    print("| heads | KV | depth | threads | us | GB/s | of reading | G products/s | of f32 products |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n_threads in options.threads:
        bandwidth, products = limits(n_threads)
        print(f"| limit | | | {n_threads} | | {bandwidth / 1e9:.1f} | | {products / 1e9:.1f} | |", flush=True)
        for name, dtype, depth in product(options.shape, options.kv, options.depth):
            shape = SHAPES[name]
            seconds, n_bytes = measure(shape, dtype, depth, options.tokens, n_threads)
            seen = sum(range(depth + 1, depth + options.tokens + 1))
            n_products = 2 * shape.n_head * shape.head_dim * seen
            print(
                f"| {name} | {dtype} | {depth} | {n_threads} | {seconds * 1e6:.0f} "
                f"| {n_bytes / seconds / 1e9:.1f} | {n_bytes / seconds / bandwidth:.0%} "
                f"| {n_products / seconds / 1e9:.1f} | {n_products / seconds / products:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
