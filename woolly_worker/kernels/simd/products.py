"""Verbs over register tiles of rows by tokens, in floats: sixteen lanes of partial sums for each (row, token), half of
them at a time where registers hold eight.

Every vector of weights meets all tokens of the tile and every vector of activations all its rows, so a tile of R by T
loads R + T vectors for R * T products. Its vectors lie row by row: (row 0, token 0), (row 0, token 1) ...
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import Builder, Value, call_ir, load_ir, shuffle_ir, verb
from woolly_worker.kernels.simd.sizes import PRODUCT_LANES, PRODUCT_ROWS
from woolly_worker.kernels.simd.tiles import at_ir, pack_ir, unpack_ir
from woolly_worker.kernels.simd.vectors import Tile, Vec, f32x16

# Products are treated PRODUCT_LANES of the sixteen lanes at a time.
_part = Vec("f32", PRODUCT_LANES)


@verb
def zero_products(typing_context: Any, n_tokens: Any) -> Any:
    """A tile of PRODUCT_ROWS by n_tokens, a literal."""
    if not isinstance(n_tokens, types.IntegerLiteral):
        return None
    tile = Tile(_part, PRODUCT_ROWS * n_tokens.literal_value)
    return tile(n_tokens), lambda context, b, sig, args: ir.Constant(tile.llvm, None)


@verb
def lanes_of(typing_context: Any, vector: Any, part: Any) -> Any:
    """Lanes part * PRODUCT_LANES .. of sixteen f32; `part` is a literal. What the other lanes took is not computed."""
    if not isinstance(part, types.IntegerLiteral):
        return None
    lanes = [part.literal_value * PRODUCT_LANES + lane for lane in range(PRODUCT_LANES)]
    return _part(vector, part), lambda context, b, sig, args: shuffle_ir(b, args[0], args[0], lanes)


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
    """acc[r, t] = fma(rows[r], as many f32 at x[t], acc[r, t])."""
    n_tokens, vec = acc.n // rows.n, acc.vec

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs, vectors = unpack_ir(b, args[0]), unpack_ir(b, args[1])
        for t in range(n_tokens):
            values = load_ir(b, at_ir(b, args[2], t, args[3]), vec.llvm)
            for r, vector in enumerate(vectors):
                i = r * n_tokens + t
                accs[i] = call_ir(b, f"llvm.fma.v{vec.n}f32", vec.llvm, vector, values, accs[i])
        return pack_ir(b, accs)

    return acc(acc, rows, types.intp, types.intp), emit


@verb
def load_tokens(typing_context: Any, x: Any, stride: Any, acc: Any) -> Any:
    """As many f32 of each token at x[t] as acc[r, t] has lanes: a tile."""
    tokens = Tile(acc.vec, acc.n // PRODUCT_ROWS)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return pack_ir(b, [load_ir(b, at_ir(b, args[0], t, args[1]), acc.vec.llvm) for t in range(tokens.n)])

    return tokens(types.intp, types.intp, acc), emit


@verb
def fma_row(typing_context: Any, acc: Any, r: Any, row: Any, tokens: Any) -> Any:
    """acc[r, t] = fma(row, tokens[t], acc[r, t]); `r` is a literal."""
    if not isinstance(r, types.IntegerLiteral):
        return None
    first, vec = r.literal_value * tokens.n, acc.vec

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs = unpack_ir(b, args[0])
        for i, values in enumerate(unpack_ir(b, args[3]), first):
            accs[i] = call_ir(b, f"llvm.fma.v{vec.n}f32", vec.llvm, args[2], values, accs[i])
        return pack_ir(b, accs)

    return acc(acc, r, row, tokens), emit


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
