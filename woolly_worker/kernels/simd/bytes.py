"""Products of bytes, summed up: `dot_u8i8` and its kin over vectors, `dot_groups` and its kin over register tiles.

Most CPUs have one instruction for four products of unsigned bytes with signed ones, and their sum. AVX2 has not:
`pmaddubsw` adds two products up in 16 bits, where they saturate, and `pmaddwd` two of those, times a factor each, in 32
bits (IN_SHORTS). So verbs with an unsigned side are told the largest byte that may come there (`largest`, a literal;
signed bytes may be anything). Up to 128, two products fit 16 bits, and the smaller the bytes, the more of such sums can
be added up there before they are put down: 8 for 4-bit weights, 4 for 5 bits, 2 for 6 bits. A sub-scale is the factor
then, so that it costs nothing.

Unsigned bytes beyond 128 are not for these CPUs. Their kernels leave such weights signed, and multiply the magnitudes
by tokens that take the signs over: `largest` None, and the verbs with `i8i8` in their names. Tokens
never hold -128 (see quantize.py).

All of it is exact, so the results are those of every other CPU.
"""

import functools
from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    call_ir,
    constant,
    dot_i16_ir,
    dot_u8i8_ir,
    join_ir,
    load_ir,
    shuffle_ir,
    splat_ir,
    verb,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS, TILE_TOKENS
from woolly_worker.kernels.simd.tiles import at_ir, pack_ir, unpack_ir
from woolly_worker.kernels.simd.vectors import I32, I64, Tile, i16x16, i32x16

LANES = 8  # of 32 bits in a register
WORDS = ir.VectorType(I32, LANES)
SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)
BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)


def _literal(number: Any) -> int | None:
    return number.literal_value if isinstance(number, types.IntegerLiteral) else None


def _is_largest(number: Any) -> bool:
    """A literal, or None: both sides are signed."""
    return isinstance(number, types.IntegerLiteral) or (IN_SHORTS and isinstance(number, types.NoneType))


def _pieces(b: Builder, vector: Value) -> list[Value]:
    """A vector of i32 as registers."""
    n = vector.type.count
    assert n % LANES == 0, n
    if n == LANES:
        return [vector]
    return [shuffle_ir(b, vector, vector, list(range(first, first + LANES))) for first in range(0, n, LANES)]


def _pair_products(b: Builder, u: Value, s: Value) -> Value:
    """Sums of two neighbours' products, in 16 bits."""
    return call_ir(b, "llvm.x86.avx2.pmadd.ub.sw", SHORTS, b.bitcast(u, BYTES), b.bitcast(s, BYTES))


def _put_down(b: Builder, acc: Value, sums: Value, factor: Value) -> Value:
    """acc + the sums of two neighbours, each times its factor."""
    return b.add(acc, call_ir(b, "llvm.x86.avx2.pmadd.wd", WORDS, sums, factor))


def _both_halves(b: Builder, scale: Value) -> Value:
    """The lower 16 bits of every i32 lane in both of its halves."""
    shorts = b.bitcast(scale, SHORTS)
    return shuffle_ir(b, shorts, shorts, [i - i % 2 for i in range(2 * LANES)])


def _room(largest: int) -> int:
    """How many sums of two products of such unsigned bytes can be added up in 16 bits."""
    if largest > 128:
        raise ValueError(f"unsigned bytes up to {largest} times signed ones overflow sums of 16 bits: 128 is the limit")
    return (1 << 15) // (largest << 8)


def _dot_in_shorts(b: Builder, acc: Value, u: Value, s: Value, largest: int) -> Value:
    _room(largest)  # there has to be some
    lanes, ones = [_pieces(b, vector) for vector in (acc, u, s)], constant(SHORTS, 1)
    sums = [_put_down(b, total, _pair_products(b, x, y), ones) for total, x, y in zip(*lanes, strict=True)]
    return join_ir(b, sums)


@verb
def dot_u8i8(typing_context: Any, acc: Any, u: Any, s: Any, largest: Any) -> Any:
    """i32 lanes: acc[i] + the four products of unsigned bytes u[4 i ..] with signed bytes s[4 i ..]. Exact."""
    limit = _literal(largest)
    if limit is None:
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        total, unsigned, signed = args[0], b.bitcast(args[1], acc.llvm), b.bitcast(args[2], acc.llvm)
        if IN_SHORTS:
            return _dot_in_shorts(b, total, unsigned, signed, limit)
        return dot_u8i8_ir(b, total, unsigned, signed)

    return acc(acc, u, s, largest), emit


def _magnitude(b: Builder, x: Value) -> Value:
    return call_ir(b, "llvm.abs.v32i8", BYTES, x, ir.Constant(ir.IntType(1), 0))


def _with_sign(b: Builder, x: Value, of: Value) -> Value:
    return call_ir(b, "llvm.x86.avx2.psign.b", BYTES, x, of)


def _dot_signed(b: Builder, acc: Value, x: Value, y: Value, factors: Value) -> Value:
    """acc + factors * (|x| times y with x's sign). Two products fit 16 bits: 2 * 128 * 127."""
    results, lanes = [], [_pieces(b, b.bitcast(vector, acc.type)) for vector in (acc, x, y, factors)]
    for total, left, right, factor in zip(*lanes, strict=True):
        left, right = b.bitcast(left, BYTES), b.bitcast(right, BYTES)
        products = _pair_products(b, _magnitude(b, left), _with_sign(b, right, left))
        results.append(_put_down(b, total, products, b.bitcast(factor, SHORTS)))
    return join_ir(b, results)


@verb
def dot_i8i8(typing_context: Any, acc: Any, x: Any, y: Any) -> Any:
    """The same with two signed sides, exact for all but -128 on the right. Only for CPUs that add up in 16 bits: others
    would have to raise one side, which formats do better."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        assert IN_SHORTS
        return _dot_signed(b, args[0], args[1], args[2], constant(acc.llvm, 0x10001))

    return acc(acc, x, y), emit


@verb
def dot_i8i8_times(typing_context: Any, acc: Any, x: Any, y: Any, scales: Any) -> Any:
    """The same times scale[i], see `dot_times`."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        assert IN_SHORTS
        return _dot_signed(b, *args)

    return acc(acc, x, y, scales), emit


@verb
def to_factors(typing_context: Any, numbers: Any) -> Any:
    """Sixteen 16-bit numbers in i32 lanes, for `spread_factors`."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        if not IN_SHORTS:
            return b.and_(args[0], constant(numbers.llvm, 0xFFFF))
        # Each half of the numbers twice, so that a shuffle stays within 128 bits. "With the sign of one" is what LLVM
        # does not see through: else it would shuffle bytes, and extend them to 16 bits once for every use.
        shorts, ones = b.trunc(args[0], SHORTS), constant(SHORTS, 1)
        halves = [shuffle_ir(b, shorts, shorts, [first + i % LANES for i in range(2 * LANES)]) for first in (0, LANES)]
        return pack_ir(b, [call_ir(b, "llvm.x86.avx2.psign.w", SHORTS, half, ones) for half in halves])

    return (Tile(i16x16, 2) if IN_SHORTS else numbers)(numbers), emit


@verb
def spread_factors(typing_context: Any, numbers: Any, pattern: Any) -> Any:
    """The factors of `dot_times`: a shuffle of what `to_factors` has made, see `spread`. A run of eight lanes takes
    them from one half of the numbers."""
    if not isinstance(pattern, types.StringLiteral):
        return None
    indices = [int(digit, 36) for digit in pattern.literal_value]

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        if not IN_SHORTS:
            return shuffle_ir(b, args[0], args[0], indices)
        halves, results = unpack_ir(b, args[0]), []
        for first in range(0, len(indices), LANES):
            run = indices[first : first + LANES]
            assert len({index // LANES for index in run}) == 1, pattern
            inside = [lane // 4 * LANES + index % LANES for lane, index in enumerate(run) for _ in range(2)]
            half = halves[run[0] // LANES]
            results.append(b.bitcast(shuffle_ir(b, half, half, inside), WORDS))
        return join_ir(b, results)

    return i32x16(numbers, pattern), emit


@verb
def dot_times(typing_context: Any, acc: Any, u: Any, s: Any, scales: Any, largest: Any) -> Any:
    """acc[i] + scale[i] * (the four products, see dot_u8i8); `scales` are made by `spread_factors` or
    `two_factors`. Exact: what is multiplied by a scale fits 16 bits. That is four products, and `largest` 64 at the
    most; but two, and 128, where products are added up in 16 bits anyway."""
    limit = _literal(largest)
    if limit is None:
        return None
    assert limit <= (128 if IN_SHORTS else 64), limit

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        total, unsigned, signed = args[0], b.bitcast(args[1], acc.llvm), b.bitcast(args[2], acc.llvm)
        if not IN_SHORTS:
            return dot_i16_ir(b, total, dot_u8i8_ir(b, constant(acc.llvm, 0), unsigned, signed), args[3])
        lanes = [_pieces(b, vector) for vector in (total, unsigned, signed, args[3])]
        results = [
            _put_down(b, a, _pair_products(b, x, y), b.bitcast(factor, SHORTS))
            for a, x, y, factor in zip(*lanes, strict=True)
        ]
        return join_ir(b, results)

    return acc(acc, u, s, scales, largest), emit


def _groups_in_shorts(
    b: Builder, acc: Value, panel: Value, tokens: list[Value], n_groups: int, largest: int | None, scale: Value | None
) -> Value:
    """acc[t] += scale * (panel . x[t]); largest None: the panel's bytes are signed."""
    totals = [_pieces(b, vector) for vector in unpack_ir(b, acc)]
    n_pieces, room = len(totals[0]), 1 if largest is None else _room(largest)
    ones = [constant(SHORTS, 1)] * n_pieces
    factors = ones if scale is None else [_both_halves(b, piece) for piece in _pieces(b, scale)]
    sums: dict[tuple[int, int], Value] = {}
    for g in range(n_groups):
        places = [I64(4 * LANES * (n_pieces * g + piece)) for piece in range(n_pieces)]
        weights = [load_ir(b, b.add(panel, place), BYTES) for place in places]
        magnitudes = weights if largest is not None else [_magnitude(b, w) for w in weights]
        for t, x in enumerate(tokens):
            values = b.bitcast(splat_ir(b, load_ir(b, b.add(x, I64(4 * g)), I32), LANES), BYTES)
            for piece, w in enumerate(weights):
                signed = values if largest is not None else _with_sign(b, values, w)
                products, key = _pair_products(b, magnitudes[piece], signed), (t, piece)
                sums[key] = b.add(sums[key], products) if key in sums else products
        if (g + 1) % room == 0 or g == n_groups - 1:
            for (t, piece), shorts in sums.items():
                totals[t][piece] = _put_down(b, totals[t][piece], shorts, factors[piece])
            sums = {}
    return pack_ir(b, [join_ir(b, pieces) for pieces in totals])


def _groups(b: Builder, accs: list[Value], panel: Value, tokens: list[Value], n_groups: int) -> list[Value]:
    """acc[t] += panel . x[t] by four products at a time.

    One token's dot products wait for each other. Small tiles get several chains, summed at the end: integers, so the
    order is free.
    """
    n_chains = min(max(1, TILE_TOKENS // len(accs)), n_groups)
    vec = accs[0].type
    zero = ir.Constant(vec, None)
    chains = [list(accs), *([zero] * len(accs) for _ in range(n_chains - 1))]
    for g in range(n_groups):
        weights = load_ir(b, b.add(panel, I64(64 * g)), vec)
        sums = chains[g % n_chains]
        for t, x in enumerate(tokens):
            values = splat_ir(b, load_ir(b, b.add(x, I64(4 * g)), I32), vec.count)
            sums[t] = dot_u8i8_ir(b, sums[t], weights, values)
    return [functools.reduce(b.add, chain) for chain in zip(*chains, strict=True)]


@verb
def dot_groups(typing_context: Any, acc: Any, panel: Any, x: Any, stride: Any, n_groups: Any, largest: Any) -> Any:
    """acc[t] += panel . x[t] over n_groups groups of four columns.

    panel   address of n_groups x 64 bytes, unsigned: for each group, four columns of row 0, of row 1, ... of row 15
    x       address of the tokens' signed bytes, four for each group
    largest     None: the panel's bytes are signed. Only for CPUs that add up in 16 bits, and no token may have -128
    Exact: i8 x u8 into i32. The caller keeps the sum below 2**31.
    """
    groups, limit = _literal(n_groups), _literal(largest)
    if groups is None or not _is_largest(largest):
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs, tokens = unpack_ir(b, args[0]), [at_ir(b, args[2], t, args[3]) for t in range(acc.n)]
        if IN_SHORTS:
            return _groups_in_shorts(b, args[0], args[1], tokens, groups, limit, None)
        return pack_ir(b, _groups(b, accs, args[1], tokens, groups))

    return acc(acc, types.intp, types.intp, types.intp, n_groups, largest), emit


@verb
def dot_groups_times(
    typing_context: Any, acc: Any, panel: Any, x: Any, stride: Any, n_groups: Any, largest: Any, scale: Any
) -> Any:
    """acc[t] += scale * (panel . x[t]), see dot_groups. `scale`: a number of 16 bits for each of the sixteen rows."""
    groups, limit = _literal(n_groups), _literal(largest)
    if groups is None or not _is_largest(largest):
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        accs, tokens = unpack_ir(b, args[0]), [at_ir(b, args[2], t, args[3]) for t in range(acc.n)]
        if IN_SHORTS:
            return _groups_in_shorts(b, args[0], args[1], tokens, groups, limit, args[6])
        zeros = [ir.Constant(acc.vec.llvm, None)] * acc.n
        sums = _groups(b, zeros, args[1], tokens, groups)
        return pack_ir(b, [b.add(a, b.mul(s, args[6])) for a, s in zip(accs, sums, strict=True)])

    return acc(acc, types.intp, types.intp, types.intp, n_groups, largest, scale), emit


@verb
def dot_bytes_each(typing_context: Any, acc: Any, vector: Any, x: Any, stride: Any, largest: Any) -> Any:
    """acc[t] += four unsigned bytes of each lane of `vector` . four signed bytes at x[t]. Exact. `largest` as in
    dot_groups."""
    if not _is_largest(largest):
        return None
    limit, ones = _literal(largest), constant(acc.vec.llvm, 0x10001)

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        weights = b.bitcast(args[1], acc.vec.llvm)
        results = []
        for t, a in enumerate(unpack_ir(b, args[0])):
            values = splat_ir(b, load_ir(b, at_ir(b, args[2], t, args[3]), I32), acc.vec.n)
            if limit is None:
                results.append(_dot_signed(b, a, weights, values, ones))
            elif IN_SHORTS:
                results.append(_dot_in_shorts(b, a, weights, values, limit))
            else:
                results.append(dot_u8i8_ir(b, a, weights, values))
        return pack_ir(b, results)

    return acc(acc, vector, types.intp, types.intp, largest), emit
