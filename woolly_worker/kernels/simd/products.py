"""Verbs over register tiles of rows by tokens, in floats: sixteen lanes of partial sums for each (row, token).

Every vector of weights meets all tokens of the tile and every vector of activations all its rows, so a tile of R by T
loads R + T vectors for R * T products. Its vectors lie row by row: (row 0, token 0), (row 0, token 1) ...
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import Builder, Value, call_ir, load_ir, shuffle_ir, verb
from woolly_worker.kernels.simd.sizes import PRODUCT_ROWS
from woolly_worker.kernels.simd.tiles import at_ir, pack_ir, unpack_ir
from woolly_worker.kernels.simd.vectors import Tile, f32x16

# The largest tile that leaves registers for a vector of each row and one of a token: 24 + 4 + 1 of 32 that hold sixteen
# floats; where registers are sixteen of eight floats, lanes 0..7 of it
# come first: 12 + 2 + 1.


@verb
def zero_products(typing_context: Any, n_tokens: Any) -> Any:
    """A tile of PRODUCT_ROWS by n_tokens, a literal."""
    if not isinstance(n_tokens, types.IntegerLiteral):
        return None
    tile = Tile(f32x16, PRODUCT_ROWS * n_tokens.literal_value)
    return tile(n_tokens), lambda context, b, sig, args: ir.Constant(tile.llvm, None)


@verb
def two_vectors(typing_context: Any, x: Any, y: Any) -> Any:
    """A tile."""
    return Tile(x, 2)(x, x), lambda context, b, sig, args: pack_ir(b, list(args))


@verb
def four_vectors(typing_context: Any, x: Any, y: Any, z: Any, w: Any) -> Any:
    """A tile."""
    return Tile(x, 4)(x, x, x, x), lambda context, b, sig, args: pack_ir(b, list(args))


@verb
def fma_products(typing_context: Any, acc: Any, rows: Any, x: Any, stride: Any) -> Any:
    """acc[r, t] = fma(rows[r], sixteen f32 at x[t], acc[r, t])."""
    n_tokens = acc.n // rows.n

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs, vectors = unpack_ir(b, args[0]), unpack_ir(b, args[1])
        for t in range(n_tokens):
            values = load_ir(b, at_ir(b, args[2], t, args[3]), f32x16.llvm)
            for r, vector in enumerate(vectors):
                i = r * n_tokens + t
                accs[i] = call_ir(b, "llvm.fma.v16f32", f32x16.llvm, vector, values, accs[i])
        return pack_ir(b, accs)

    return acc(acc, rows, types.intp, types.intp), emit


def _fold_pair_ir(b: Builder, x: Value, y: Value, lanes: int) -> Value:
    """x and y consist of runs of `lanes` lanes; the runs' halves are folded onto each other, and y's put behind x's."""
    half = lanes // 2
    starts = range(0, 32, lanes)
    low = [start + k for start in starts for k in range(half)]
    return b.fadd(shuffle_ir(b, x, y, low), shuffle_ir(b, x, y, [index + half for index in low]))


@verb
def sums_of_sixteen(typing_context: Any, address: Any, stride: Any) -> Any:
    """Lane i is the sum of the lanes of the f32x16 at address + i * stride, in the order of `hsum`.

    Halves are folded onto each other, those of two vectors at a time, then of the two results: fifteen sums for all
    sixteen vectors, where each by itself takes four.
    """

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        vectors = [load_ir(b, at_ir(b, args[0], i, args[1]), f32x16.llvm) for i in range(16)]
        lanes = 16
        while lanes > 1:
            vectors = [_fold_pair_ir(b, vectors[i], vectors[i + 1], lanes) for i in range(0, len(vectors), 2)]
            lanes //= 2
        return vectors[0]

    return f32x16(types.intp, types.intp), emit
