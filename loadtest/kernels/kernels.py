"""Every kernel beside what NumPy and a plain loop make of the same work, and beside the machine's limits.

    python loadtest/kernels/kernels.py [--only matmul] [--types Q4_K,Q8_0] [--shapes 64x64,2048x2048] [--json]

Matrix products for every tensor type that the kernels read, one to 512 tokens; RMSNorm and SwiGLU over several sizes.
Weights are random, written as raw blocks by the rules of loadtest/engine/random_gguf.py. NumPy multiplies by the
dequantised matrix in f32 (with its BLAS and all threads); the loop is the one of the baseline engine, which dequantises
each row whenever it reads it, and is left out where it would take longer than NAIVE_PRODUCTS allows.

The three take turns, and medians count. What is in a cache is not in memory: a small matrix may well exceed the
bandwidth.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from random_gguf import Tensor, tensor_pieces

from woolly_worker.bench.limits import LimitProbe, Limits
from woolly_worker.bench.matmul import KernelMatmul, NaiveMatmul, random_rows
from woolly_worker.gguf.types import GGMLType
from woolly_worker.kernels import naive
from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.cpu import CPU, allowed_cpus
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.rmsnorm import rmsnorm_row
from woolly_worker.kernels.swiglu import swiglu_row
from woolly_worker.memory.activations import Rows
from woolly_worker.model.weights import Matrix

SHAPES = ("64x64", "2048x2048", "32000x4096")
TOKENS = (1, 8, 512)
ROW_SIZES = (256, 2048, 4096, 11008)
N_ROWS = 64  # of RMSNorm and SwiGLU
LEAST_SECONDS = 0.002  # of a measured piece: shorter work is repeated within it
# Before a piece: threads of NumPy's BLAS spin for 20 ms after their last product, and threads that slept come late.
SETTLE_SECONDS, WAKE_SECONDS = 0.04, 0.02
NAIVE_PRODUCTS = 2e8  # of a loop: about 0.2 s


@dataclass(frozen=True)
class Row:
    """Seconds are medians of one run of the work. Rates are the kernel's."""

    kernel: str
    shape: str
    tokens: int
    seconds: float
    numpy_seconds: float
    loop_seconds: float | None
    bytes_per_second: float
    products_per_second: float | None
    share_of_limit: float | None  # None: floats that are multiplied, whose own limit is not measured
    limit: str


def medians(works: list[Callable[[], object] | None], n_rounds: int) -> list[float | None]:
    """Seconds of each work, taking turns; None stays None."""
    counts = [None if work is None else repeats(work) for work in works]
    times: list[list[float]] = [[] for _ in works]
    for _ in range(n_rounds):
        for work, count, taken in zip(works, counts, times, strict=True):
            if work is not None and count is not None:
                settle(work)
                start = time.perf_counter()
                for _ in range(count):
                    work()
                taken.append((time.perf_counter() - start) / count)
    return [statistics.median(taken) if taken else None for taken in times]


def settle(work: Callable[[], object]) -> None:
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    while time.perf_counter() - start < WAKE_SECONDS:
        work()


def repeats(work: Callable[[], object]) -> int:
    """How often the work fits into a piece."""
    settle(work)
    start = time.perf_counter()
    work()
    return max(1, int(LEAST_SECONDS / max(time.perf_counter() - start, 1e-7)))


class RandomMatrix:
    """A matrix of random blocks in memory of its own; `matrix` is what the kernels get."""

    def __init__(self, type_name: str, n_rows: int, n_cols: int) -> None:
        kind = GGMLType[type_name]
        tensor = Tensor("random", (n_rows, n_cols), gguf.GGMLQuantizationType[type_name])
        self.bytes = np.frombuffer(b"".join(tensor_pieces(np.random.default_rng(3), tensor)), np.uint8)
        row_bytes = kind.row_bytes(n_cols)
        address = int(self.bytes.ctypes.data)
        self.matrix = Matrix("random", kind, n_rows, n_cols, address, row_bytes, self.bytes.size)

    def dequantized(self) -> np.ndarray:
        """(n_rows, n_cols) f32, by the kernels' own operation."""
        m = self.matrix
        out = Rows(m.n_rows, m.n_cols)
        for r in range(m.n_rows):
            place = out.values.address + r * out.values.stride
            FORMATS[m.type.name].dequantize(m.address + r * m.row_bytes, m.n_cols, place)
        return np.ascontiguousarray(out.array())


def matmuls(options: argparse.Namespace, limits: Limits) -> Iterator[Row]:
    for type_name in options.types:
        for shape in options.shapes:
            n_rows, n_cols = map(int, shape.split("x"))
            if n_cols % FORMATS[type_name].block:
                continue  # a row of this type has whole blocks
            random = RandomMatrix(type_name, n_rows, n_cols)
            plain = random.dequantized()
            for n_tokens in options.tokens:
                yield matmul(random.matrix, plain, shape, n_tokens, options, limits)


def matmul(
    matrix: Matrix, plain: np.ndarray, shape: str, n_tokens: int, options: argparse.Namespace, limits: Limits
) -> Row:
    products = n_tokens * matrix.n_rows * matrix.n_cols
    x = random_rows(n_tokens, matrix.n_cols)
    kernel = KernelMatmul(matrix, n_tokens, n_threads=options.threads)
    loop = NaiveMatmul(matrix, n_tokens).run if products <= NAIVE_PRODUCTS else None
    seconds, numpy_seconds, loop_seconds = medians([kernel.run, lambda: x @ plain.T, loop], options.rounds)
    kernel.close()
    assert seconds is not None
    assert numpy_seconds is not None
    # The nearer limit is the one that a perfect kernel would meet.
    least = {
        "bandwidth": matrix.n_bytes / limits.read_bytes_per_second,
        "int8": products / limits.products_per_second,
    }
    limit = max(least, key=lambda name: least[name])
    is_float = FORMATS[matrix.type.name].activation == Activation.F32
    return Row(
        f"matmul {matrix.type.name}",
        shape,
        n_tokens,
        seconds,
        numpy_seconds,
        loop_seconds,
        bytes_per_second=matrix.n_bytes / seconds,
        products_per_second=products / seconds,
        share_of_limit=None if is_float and limit == "int8" else least[limit] / seconds,
        limit="" if is_float and limit == "int8" else limit,
    )


def row_kernels(options: argparse.Namespace, limits: Limits) -> Iterator[Row]:
    """RMSNorm and SwiGLU of N_ROWS rows on one thread; they read two arrays and write one, which counts twice."""
    for n in ROW_SIZES:
        x, y, out = Rows(N_ROWS, n), Rows(N_ROWS, n), Rows(N_ROWS, n)
        a, b = random_rows(N_ROWS, n), random_rows(N_ROWS, n)
        x.array()[:], y.array()[:] = a, b
        weight, eps = np.ascontiguousarray(b[0]), np.float32(1e-5)

        def norm(x: Rows = x, y: Rows = y, out: Rows = out, n: int = n, eps: np.float32 = eps) -> None:
            for r in range(N_ROWS):
                at = r * x.values.stride
                rmsnorm_row(x.values.address + at, y.values.address, n, eps, out.values.address + at)

        def norm_numpy(a: np.ndarray = a, weight: np.ndarray = weight, eps: np.float32 = eps) -> np.ndarray:
            return a / np.sqrt((a * a).mean(axis=1, keepdims=True) + eps) * weight

        def norm_loop(a: np.ndarray = a, weight: np.ndarray = weight, eps: np.float32 = eps) -> object:
            return naive.rmsnorm(a, weight, eps)

        def swiglu(x: Rows = x, y: Rows = y, n: int = n) -> None:
            for r in range(N_ROWS):
                at = r * x.values.stride
                swiglu_row(x.values.address + at, y.values.address + at, n)

        def swiglu_numpy(a: np.ndarray = a, b: np.ndarray = b) -> np.ndarray:
            return a / (1 + np.exp(-a)) * b

        def swiglu_loop(a: np.ndarray = a, b: np.ndarray = b) -> object:
            return naive.swiglu(a, b)

        for name, works in (
            ("rmsnorm", [norm, norm_numpy, norm_loop]),
            ("swiglu", [swiglu, swiglu_numpy, swiglu_loop]),
        ):
            seconds, numpy_seconds, loop_seconds = medians(list(works), options.rounds)
            assert seconds is not None
            assert numpy_seconds is not None
            rate = 3 * 4 * N_ROWS * n / seconds
            share = rate / limits.read_bytes_per_second
            yield Row(
                name, f"{N_ROWS}x{n}", N_ROWS, seconds, numpy_seconds, loop_seconds, rate, None, share, "bandwidth"
            )


def table(rows: list[Row]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("kernel", no_wrap=True)
    for column in ("shape", "tokens", "us", "GB/s", "G/s", "of limit", "", "x NumPy", "x loop"):
        made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.kernel,
            row.shape,
            str(row.tokens),
            f"{1e6 * row.seconds:,.1f}",
            f"{row.bytes_per_second / 1e9:.1f}",
            "" if row.products_per_second is None else f"{row.products_per_second / 1e9:.0f}",
            "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}",
            row.limit,
            f"{row.numpy_seconds / row.seconds:.1f}",
            "" if row.loop_seconds is None else f"{row.loop_seconds / row.seconds:.0f}",
        )
    return made


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.replace(",", " ").split()

    parser = argparse.ArgumentParser(description="Every kernel beside NumPy, a plain loop and the machine's limits.")
    parser.add_argument("--only", choices=("matmul", "rows"), help="matrix products, or RMSNorm and SwiGLU")
    parser.add_argument("--types", type=words, default=list(FORMATS), help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--shapes", type=words, default=list(SHAPES), help="rows x columns")
    parser.add_argument("--tokens", type=lambda text: [int(word) for word in words(text)], default=list(TOKENS))
    parser.add_argument("--threads", type=int, default=allowed_cpus())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.types:
        if name not in FORMATS:
            parser.error(f"{name} is none of {', '.join(FORMATS)}")
    return options


def main() -> None:
    options = parse()
    limits = LimitProbe(options.threads).measure()
    rows: list[Row] = []
    if options.only != "rows":
        rows += matmuls(options, limits)
    if options.only != "matmul":
        rows += row_kernels(options, limits)
    if options.json:
        head = {"cpu": CPU.tag, "threads": options.threads, "limits": asdict(limits)}
        print(json.dumps(head | {"rows": [asdict(row) for row in rows]}, indent=1))
        return
    console = Console(width=100, highlight=False)
    console.print(
        f"{CPU.tag}, {options.threads} threads: {limits.read_bytes_per_second / 1e9:.1f} GB/s read, "
        f"{limits.products_per_second / 1e9:.0f} G int8 multiply-adds/s"
    )
    console.print(table(rows))


if __name__ == "__main__":
    main()
