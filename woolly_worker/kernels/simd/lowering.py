"""How the verbs become LLVM IR: the pieces that several of them share.

Everything here runs while a kernel is compiled and emits instructions; nothing here is called by a kernel. Inline
assembly is out of reach (Numba sets up no asm parser), so everything is an LLVM instruction or intrinsic.

Only the products of bytes and of 16-bit integers, bits as lanes and the verbs over grids choose instructions by CPU
level, and they are exact in integers. The conversions of halves do where a plain x86-64 has none, and are exact (or
correctly rounded) either way.
"""

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from woolly_worker.kernels import jit  # noqa: F401  (settles Numba's options first)
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.simd.sizes import IN_SHORTS
from woolly_worker.kernels.simd.vectors import I32

Builder = Any
Value = Any


def verb(function: Any) -> Any:
    """A word of the vocabulary: given Numba's types it returns a signature and a function that emits LLVM IR."""
    return intrinsic(function)


def pointer(b: Builder, address: Value, to: ir.Type) -> Value:
    """An integer as an address.

    Numba optimises a part twice: by itself, down to machine code, and once more inside its caller. The first time, LLVM
    may rewrite `row + 128 * i` as "the object at 128 * i, element row"; when the caller then knows that i is 0, that
    reads as an access through a null pointer, and the code is removed as unreachable. The attribute says that it is
    not. llvmlite has no name for it, so it goes past the list of those it knows.
    """
    set.add(b.function.attributes, "null_pointer_is_valid")
    return b.inttoptr(address, to.as_pointer())


def load_ir(b: Builder, address: Value, of: ir.Type) -> Value:
    value = b.load(pointer(b, address, of))
    value.align = 1
    return value


def store_ir(b: Builder, address: Value, value: Value) -> None:
    b.store(value, pointer(b, address, value.type)).align = 1


def constant(vec: ir.VectorType, value: float | int) -> ir.Constant:
    return ir.Constant(vec, [value] * vec.count)


def mask_ir(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(indices)), indices)


def splat_ir(b: Builder, scalar: Value, n: int) -> Value:
    vec = ir.VectorType(scalar.type, n)
    first = b.insert_element(ir.Constant(vec, ir.Undefined), scalar, I32(0))
    return b.shuffle_vector(first, ir.Constant(vec, ir.Undefined), mask_ir([0] * n))


def shuffle_ir(b: Builder, x: Value, y: Value, indices: list[int]) -> Value:
    return b.shuffle_vector(x, y, mask_ir(indices))


def call_ir(b: Builder, name: str, result: ir.Type, *args: Value) -> Value:
    signature = ir.FunctionType(result, [a.type for a in args])
    return b.call(get_or_insert_function(b.module, signature, name), args)


# LLVM turns half precision on a plain x86-64 into calls of a runtime library that no Python process loads.
_HALF_IN_SOFTWARE = CPU.level == "generic" and platform.machine() in ("x86_64", "AMD64")


def _like(value: Value, element: ir.Type) -> ir.Type:
    """`element`, in as many lanes as `value` has; a scalar for a scalar."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def _number(of: ir.Type, value: float | int) -> ir.Constant:
    return constant(of, value) if isinstance(of, ir.VectorType) else ir.Constant(of, value)


def extend_half_ir(b: Builder, half: Value) -> Value:
    """f16 to f32, exact: a scalar or a vector."""
    f32, i32 = _like(half, ir.FloatType()), _like(half, I32)
    if not _HALF_IN_SOFTWARE:
        return b.fpext(half, f32)
    bits = b.zext(b.bitcast(half, _like(half, ir.IntType(16))), i32)
    sign = b.shl(b.and_(bits, _number(i32, 0x8000)), _number(i32, 16))
    magnitude = b.and_(bits, _number(i32, 0x7FFF))
    # Moved into place, the exponent is 112 too small: a product puts it right, for subnormal halves too.
    moved = b.bitcast(b.shl(magnitude, _number(i32, 13)), f32)
    scaled = b.bitcast(b.fmul(moved, _number(f32, 2.0**112)), i32)
    special = b.icmp_unsigned(">=", magnitude, _number(i32, 0x7C00))
    scaled = b.select(special, b.or_(scaled, _number(i32, 0x7F800000)), scaled)
    return b.bitcast(b.or_(scaled, sign), f32)


def truncate_to_half_ir(b: Builder, value: Value) -> Value:
    """f32 to f16, to nearest, ties to even: a scalar or a vector."""
    f16, i32 = _like(value, ir.HalfType()), _like(value, I32)
    if not _HALF_IN_SOFTWARE:
        return b.fptrunc(value, f16)
    bits = b.bitcast(value, i32)
    magnitude = b.and_(bits, _number(i32, 0x7FFFFFFF))
    # Normal halves: subtract 112 from the exponent, round at bit 13. Subnormal ones: adding 0.5 rounds in place.
    odd = b.and_(b.lshr(magnitude, _number(i32, 13)), _number(i32, 1))
    normal = b.lshr(b.add(b.add(magnitude, _number(i32, 0xC8000FFF)), odd), _number(i32, 13))
    half = b.fadd(b.bitcast(magnitude, value.type), _number(value.type, 0.5))
    tiny = b.sub(b.bitcast(half, i32), _number(i32, 0x3F000000))
    result = b.select(b.icmp_unsigned("<", magnitude, _number(i32, 0x38800000)), tiny, normal)
    result = b.select(b.icmp_unsigned(">=", magnitude, _number(i32, 0x477FF000)), _number(i32, 0x7C00), result)
    result = b.select(b.icmp_unsigned(">", magnitude, _number(i32, 0x7F800000)), _number(i32, 0x7E00), result)
    result = b.or_(result, b.lshr(b.and_(bits, _number(i32, 0x80000000)), _number(i32, 16)))
    return b.bitcast(b.trunc(result, _like(value, ir.IntType(16))), f16)


def dot_u8i8_ir(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    """acc[i] += sum over k < 4 of u8[4 i + k] * i8[4 i + k], for i32 lanes; `u` and `s` have acc's type."""
    assert not IN_SHORTS  # see bytes.py
    vec = acc.type
    if CPU.has_avx512 or CPU.level == "avxvnni":
        width = 16 if CPU.has_avx512 else 8
        return _by_pieces(b, f"llvm.x86.avx512.vpdpbusd.{32 * width}", width, acc, u, s)
    if CPU.level in ("dotprod", "i8mm"):
        return _dot_u8i8_arm(b, acc, u, s)
    for k in range(4):
        uk = b.and_(b.lshr(u, constant(vec, 8 * k)), constant(vec, 255))
        sk = b.ashr(b.shl(s, constant(vec, 24 - 8 * k)), constant(vec, 24))
        acc = b.add(acc, b.mul(uk, sk))
    return acc


def _dot_u8i8_arm(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    """By pieces of 128 bits. With i8mm there is an instruction for it; without, both sides have to be signed:

    u . s = (u - 128) . s - (-128) . s,   exact in 32 bits
    """
    bytes_, i32x4 = ir.VectorType(ir.IntType(8), 16), ir.VectorType(I32, 4)
    top_bits = constant(bytes_, -128)
    results = []
    for start in range(0, acc.type.count, 4):
        total, unsigned, signed = (shuffle_ir(b, v, v, list(range(start, start + 4))) for v in (acc, u, s))
        unsigned, signed = b.bitcast(unsigned, bytes_), b.bitcast(signed, bytes_)
        if CPU.level == "i8mm":
            results.append(call_ir(b, "llvm.aarch64.neon.usdot.v4i32.v16i8", i32x4, total, unsigned, signed))
            continue
        sdot = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        offset = call_ir(b, sdot, i32x4, constant(i32x4, 0), top_bits, signed)
        moved = call_ir(b, sdot, i32x4, total, b.xor(unsigned, top_bits), signed)
        results.append(b.sub(moved, offset))
    return join_ir(b, results)


def dot_i16_ir(b: Builder, acc: Value, x: Value, y: Value) -> Value:
    """acc[i] += x16[2 i] * y16[2 i] + x16[2 i + 1] * y16[2 i + 1]; `x` and `y` have acc's type."""
    vec, n = acc.type, acc.type.count
    if CPU.has_avx512 or CPU.level == "avxvnni":
        width = 16 if CPU.has_avx512 else 8
        return _by_pieces(b, f"llvm.x86.avx512.vpdpwssd.{32 * width}", width, acc, x, y)
    if CPU.level == "avx2":
        wide = ir.VectorType(ir.IntType(16), 2 * n)
        return b.add(acc, _madd_i16(b, b.bitcast(x, wide), b.bitcast(y, wide), n))
    sixteen = constant(vec, 16)

    def low(v: Value) -> Value:
        return b.ashr(b.shl(v, sixteen), sixteen)

    high_products = b.mul(b.ashr(x, sixteen), b.ashr(y, sixteen))
    return b.add(acc, b.add(b.mul(low(x), low(y)), high_products))


def _by_pieces(b: Builder, name: str, width: int, *args: Value) -> Value:
    """Call an intrinsic of `width` lanes on every piece of wider (or the padding of narrower) vectors."""
    n, element = args[0].type.count, args[0].type.element
    if n < width:
        name, width = name.rsplit(".", 1)[0] + f".{32 * n}", n
    piece = ir.VectorType(element, width)
    results = []
    for start in range(0, n, width):
        lanes = list(range(start, start + width))
        parts = [a if n == width else shuffle_ir(b, a, a, lanes) for a in args]
        results.append(call_ir(b, name, piece, *parts))
    return join_ir(b, results)


def _madd_i16(b: Builder, x: Value, y: Value, n: int) -> Value:
    """pmaddwd on 256-bit pieces."""
    results = []
    for start in range(0, n, 8):
        lanes = list(range(2 * start, 2 * start + 16))
        parts = [a if n == 8 else shuffle_ir(b, a, a, lanes) for a in (x, y)]
        results.append(call_ir(b, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), *parts))
    return join_ir(b, results)


def join_ir(b: Builder, parts: list[Value]) -> Value:
    while len(parts) > 1:
        n = parts[0].type.count
        both = list(range(2 * n))
        parts = [shuffle_ir(b, parts[i], parts[i + 1], both) for i in range(0, len(parts), 2)]
    return parts[0]


# Bits as lanes are a register of their own with AVX-512. Elsewhere LLVM takes a word of 64 apart bit by bit, unless it
# is told how: every lane gets the part of the word that has its bit. Where bytes cannot be shuffled that is no better.
_BITS_BY_MASKS = not CPU.has_avx512 and CPU.level != "generic"


def select_by_bits_ir(b: Builder, bits: Value, x: Value, y: Value) -> Value:
    """x where a lane's bit is set, else y. Lane 0 has the lowest bit."""
    n, width = x.type.count, x.type.element.width
    if not _BITS_BY_MASKS:
        return b.select(b.bitcast(bits, ir.VectorType(ir.IntType(1), n)), x, y)
    assert width in (8, 16), width
    per_piece = 256 // width
    element, bits_type = x.type.element, ir.IntType(bits.type.width)
    results = []
    for first in range(0, n, per_piece):
        lanes = list(range(first, min(first + per_piece, n)))
        part = b.lshr(bits, bits_type(first)) if first else bits
        if width == 8:
            words = splat_ir(b, b.trunc(part, I32) if part.type.width > 32 else b.zext(part, I32), len(lanes) // 4)
            words = b.bitcast(words, ir.VectorType(element, len(lanes)))
            spread = shuffle_ir(b, words, words, [i // 16 * 16 + i // 8 for i in range(len(lanes))])
        else:
            spread = splat_ir(b, b.trunc(part, element) if part.type.width > width else part, len(lanes))
        masks = ir.Constant(spread.type, [1 << i % min(width, per_piece) for i in range(len(lanes))])
        is_set = b.icmp_unsigned("==", b.and_(spread, masks), masks)
        results.append(b.select(is_set, shuffle_ir(b, x, x, lanes), shuffle_ir(b, y, y, lanes)))
    return join_ir(b, results)


def reduce_ir(b: Builder, v: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Fold halves until one lane is left: a fixed tree, the same on every CPU."""
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = shuffle_ir(b, v, v, list(range(n))), shuffle_ir(b, v, v, list(range(n, 2 * n)))
        v = combine(low, high)
    return b.extract_element(v, I32(0))
