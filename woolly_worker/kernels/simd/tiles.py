"""Verbs over register tiles: one vector for each token (or row) of a small group, unrolled while the IR is written.

A tile keeps a kernel's accumulators in registers across its loops, and lets the kernel's source say "for each token"
once. The number of vectors is part of the type, so a kernel that is handed a tile of 4 or of 8 compiles to either.

Where a verb takes `x` and `stride`, token t's data lies at `x + t * stride`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    call_ir,
    constant,
    dot_i16_ir,
    load_ir,
    splat_ir,
    store_ir,
    verb,
)
from woolly_worker.kernels.simd.sizes import TILE_TOKENS
from woolly_worker.kernels.simd.vectors import I32, I64, Tile, Vec, f32x16, i32x16

F32 = ir.FloatType()


def unpack_ir(b: Builder, tile: Value) -> list[Value]:
    return [b.extract_value(tile, i) for i in range(tile.type.count)]


def pack_ir(b: Builder, vectors: list[Value]) -> Value:
    tile = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        tile = b.insert_value(tile, vector, i)
    return tile


def at_ir(b: Builder, base: Value, index: int, stride: Value) -> Value:
    return b.add(base, b.mul(stride, I64(index)))


def _splat_load(b: Builder, address: Value, element: ir.Type, n: int) -> Value:
    return splat_ir(b, load_ir(b, address, element), n)


def _zeros(vec: Vec) -> Any:
    @verb
    def zeros(typing_context: Any, n: Any) -> Any:
        if not isinstance(n, types.IntegerLiteral):
            return None
        tile = Tile(vec, n.literal_value)
        return tile(n), lambda context, b, sig, args: ir.Constant(tile.llvm, None)

    return zeros


zeros_f32 = _zeros(f32x16)  # zeros_f32(8): a tile of eight f32x16
zeros_i32 = _zeros(i32x16)


def _zeros_like(vec: Vec) -> Any:
    @verb
    def zeros(typing_context: Any, like: Any) -> Any:
        tile = Tile(vec, like.n)
        return tile(like), lambda context, b, sig, args: ir.Constant(tile.llvm, None)

    return zeros


zeros_i32_like = _zeros_like(i32x16)  # as many vectors as another tile has
zeros_f32_like = _zeros_like(f32x16)


@verb
def part_of(typing_context: Any, tile: Any) -> Any:
    """Zeros: a tile of as many of its vectors as stay in registers."""
    part = Tile(tile.vec, min(tile.n, TILE_TOKENS))
    return part(tile), lambda context, b, sig, args: ir.Constant(part.llvm, None)


@verb
def tile_size(typing_context: Any, tile: Any) -> Any:
    """How many vectors: a constant for the compiler."""
    return types.intp(tile), lambda context, b, sig, args: I64(tile.n)


@verb
def dot_pairs(typing_context: Any, acc: Any, panel: Any, x: Any, stride: Any, n_pairs: Any) -> Any:
    """acc[t] += panel . x[t] over n_pairs pairs of 16-bit integers; the layout of dot_groups with pairs for bytes."""
    if not isinstance(n_pairs, types.IntegerLiteral):
        return None
    pairs = n_pairs.literal_value

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs = unpack_ir(b, args[0])
        tokens = [at_ir(b, args[2], t, args[3]) for t in range(acc.n)]
        for p in range(pairs):
            weights = load_ir(b, b.add(args[1], I64(64 * p)), acc.vec.llvm)
            for t in range(acc.n):
                values = _splat_load(b, b.add(tokens[t], I64(4 * p)), I32, acc.vec.n)
                accs[t] = dot_i16_ir(b, accs[t], weights, values)
        return pack_ir(b, accs)

    return acc(acc, types.intp, types.intp, types.intp, n_pairs), emit


def _each(vec_ir: Callable[[Builder, Value, Value, Value], Value]) -> Any:
    @verb
    def word(typing_context: Any, acc: Any, tile: Any, vector: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            pairs = zip(unpack_ir(b, args[0]), unpack_ir(b, args[1]), strict=True)
            return pack_ir(b, [vec_ir(b, a, v, args[2]) for a, v in pairs])

        return acc(acc, tile, vector), emit

    return word


add_product_each = _each(lambda b, a, v, w: b.add(a, b.mul(v, w)))  # integers: acc[t] + tile[t] * vector


@verb
def sub_scaled_each(typing_context: Any, acc: Any, tile: Any, literal: Any) -> Any:
    """Integers: acc[t] - literal * tile[t]."""
    if not isinstance(literal, types.IntegerLiteral):
        return None
    factor = literal.literal_value

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        pairs = zip(unpack_ir(b, args[0]), unpack_ir(b, args[1]), strict=True)
        return pack_ir(b, [b.sub(a, b.mul(v, constant(v.type, factor))) for a, v in pairs])

    return acc(acc, tile, literal), emit


@verb
def sub_splat_each(typing_context: Any, acc: Any, x: Any, stride: Any, literal: Any) -> Any:
    """Integers: acc[t] - literal * i32 at x[t], the same in every lane."""
    if not isinstance(literal, types.IntegerLiteral):
        return None
    factor = literal.literal_value

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            value = load_ir(b, at_ir(b, args[1], t, args[2]), I32)
            results.append(b.sub(a, splat_ir(b, value if factor == 1 else b.mul(value, I32(factor)), acc.vec.n)))
        return pack_ir(b, results)

    return acc(acc, types.intp, types.intp, literal), emit


@verb
def sub_shifted_each(typing_context: Any, acc: Any, x: Any, stride: Any, literal: Any) -> Any:
    """Integers: acc[t] - (i32 at x[t] >> literal), the same in every lane."""
    if not isinstance(literal, types.IntegerLiteral):
        return None
    n_bits = I32(literal.literal_value)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            value = load_ir(b, at_ir(b, args[1], t, args[2]), I32)
            value = b.ashr(value, n_bits) if literal.literal_value else value
            results.append(b.sub(a, splat_ir(b, value, acc.vec.n)))
        return pack_ir(b, results)

    return acc(acc, types.intp, types.intp, literal), emit


@verb
def accumulate_each(typing_context: Any, acc: Any, scale: Any, x: Any, stride: Any, sums: Any) -> Any:
    """acc[t] = fma(scale * f32 at x[t], float(sums[t]), acc[t]): the one float step of a quantised dot product.

    The row-dot kernels do the same three operations in the same order; that is what makes them equal in bits.
    """

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        results = []
        pairs = zip(unpack_ir(b, args[0]), unpack_ir(b, args[4]), strict=True)
        for t, (a, s) in enumerate(pairs):
            token_scale = _splat_load(b, at_ir(b, args[2], t, args[3]), F32, acc.vec.n)
            factor = b.fmul(args[1], token_scale)
            results.append(call_ir(b, "llvm.fma.v16f32", a.type, factor, b.sitofp(s, a.type), a))
        return pack_ir(b, results)

    return acc(acc, scale, types.intp, types.intp, sums), emit


@verb
def accumulate_splat_each(typing_context: Any, acc: Any, m: Any, scales: Any, sums: Any, stride: Any) -> Any:
    """acc[t] = fma(m * f32 at scales[t], float(i32 at sums[t]), acc[t]): the part of a minimum, see accumulate_each."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            factor = b.fmul(args[1], _splat_load(b, at_ir(b, args[2], t, args[4]), F32, acc.vec.n))
            total = b.sitofp(load_ir(b, at_ir(b, args[3], t, args[4]), I32), F32)
            results.append(call_ir(b, "llvm.fma.v16f32", a.type, factor, splat_ir(b, total, acc.vec.n), a))
        return pack_ir(b, results)

    return acc(acc, m, types.intp, types.intp, types.intp), emit


@verb
def fma_splat_each(typing_context: Any, acc: Any, vector: Any, x: Any, stride: Any) -> Any:
    """acc[t] = fma(vector, f32 at x[t] in every lane, acc[t])."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            value = _splat_load(b, at_ir(b, args[2], t, args[3]), F32, acc.vec.n)
            results.append(call_ir(b, "llvm.fma.v16f32", a.type, args[1], value, a))
        return pack_ir(b, results)

    return acc(acc, vector, types.intp, types.intp), emit


@verb
def dot_shorts_each(typing_context: Any, acc: Any, vector: Any, x: Any, stride: Any) -> Any:
    """acc[t] += two i16 of each lane of `vector` . two i16 at x[t]. Exact."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        weights = b.bitcast(args[1], acc.vec.llvm)
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            values = _splat_load(b, at_ir(b, args[2], t, args[3]), I32, acc.vec.n)
            results.append(dot_i16_ir(b, a, weights, values))
        return pack_ir(b, results)

    return acc(acc, vector, types.intp, types.intp), emit


@verb
def store_each(typing_context: Any, address: Any, stride: Any, tile: Any) -> Any:
    """tile[t] to address + t * stride."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        for t, v in enumerate(unpack_ir(b, args[2])):
            store_ir(b, at_ir(b, args[0], t, args[1]), v)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, tile), emit


@verb
def load_each(typing_context: Any, address: Any, stride: Any, like: Any) -> Any:
    """A tile of the type of `like`, its vectors from address + t * stride."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return pack_ir(b, [load_ir(b, at_ir(b, args[0], t, args[1]), like.vec.llvm) for t in range(like.n)])

    return like(types.intp, types.intp, like), emit


@verb
def add_each(typing_context: Any, x: Any, y: Any) -> Any:
    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        add = b.fadd if x.vec.element == "f32" else b.add
        return pack_ir(b, [add(u, v) for u, v in zip(unpack_ir(b, args[0]), unpack_ir(b, args[1]), strict=True)])

    return x(x, x), emit


@verb
def vector_of(typing_context: Any, tile: Any, index: Any) -> Any:
    """One vector of a tile; the index is a literal."""
    if not isinstance(index, types.IntegerLiteral):
        return None
    i = index.literal_value
    return tile.vec(tile, index), lambda context, b, sig, args: b.extract_value(args[0], i)
