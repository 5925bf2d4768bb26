"""Verbs over grids, constant tables of several bytes an entry. And scratch on the stack.

A table is part of the compiled kernel, so Numba's disk cache stays valid: no kernel depends on an address of this
process. It is made while the kernel is compiled; a kernel that comes from the cache does not even import its source.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types

from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    call_ir,
    constant,
    load_ir,
    shuffle_ir,
    store_ir,
    verb,
)
from woolly_worker.kernels.simd.vectors import I32, I64, i8x64, i16x32

I8, I16 = ir.IntType(8), ir.IntType(16)
Bytes = npt.NDArray[np.uint8]

# AVX-512 looks 32 entries up at once, in tables that are held in registers, if an entry can be packed into 16 bits.
_PERMUTES = CPU.has_avx512
# Zen 3 takes 0.51 ns for an entry of four bytes whose index comes by way of memory, 0.32 if indices come by fours.
_IN_WORDS = CPU.level == "avx2"
_MOST_PERMUTED = 512  # entries: eight permutations for 32 of them; with twice as many, memory was faster


def grid_verbs(name: str, make: Callable[[], Bytes]) -> tuple[Any, Any]:
    """Two verbs for 64 bytes out of a table, entry by entry.

    name   that of no other table
    make   returns the table: u8 (n_entries, 4 or 8)

    note(i16x32) -> i16x32        makes notes of 32 indices: the indices themselves, or the entries packed into 16 bits,
                                  whichever is faster on this CPU
    entries(notes, k) -> i8x64    the k-th eight of the notes (or sixteen, for entries of four bytes); k is a literal
    """
    table = functools.cache(make)

    @verb
    def note(typing_context: Any, indices: Any) -> Any:
        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            return _packed_entries(b, table(), args[0]) if _is_permuted(table()) else args[0]

        return i16x32(i16x32), emit

    @verb
    def entries(typing_context: Any, notes: Any, k: Any) -> Any:
        if not isinstance(k, types.IntegerLiteral):
            return None
        part = k.literal_value

        def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
            n = 64 // table().shape[1]
            some = shuffle_ir(b, args[0], args[0], list(range(n * part, n * part + n)))
            if _is_permuted(table()):
                return _unpacked(b, table(), some)
            return _looked_up(b, table().shape[1], _address_of(b, name, table()), some)

        return i8x64(notes, k), emit

    return note, entries


def _is_permuted(table: Bytes) -> bool:
    return _PERMUTES and len(table) <= _MOST_PERMUTED


def _address_of(b: Builder, name: str, table: Bytes) -> Value:
    """The table in the module's own memory, once, at a multiple of 64."""
    name = f"woolly.grid.{name}"
    found = b.module.globals.get(name)
    if found is None:
        content = bytearray(table.tobytes())
        found = ir.GlobalVariable(b.module, ir.ArrayType(I8, len(content)), name)
        found.initializer = ir.Constant(found.value_type, content)
        found.linkage, found.global_constant, found.align = "internal", True, 64
    return b.ptrtoint(found, I64)


def _looked_up(b: Builder, entry_bytes: int, table: Value, indices: Value) -> Value:
    entry, n = ir.IntType(8 * entry_bytes), indices.type.count
    found = ir.Constant(ir.VectorType(entry, n), ir.Undefined)
    for i, index in enumerate(_in_words(b, indices) if _IN_WORDS else _by_way_of_memory(b, indices)):
        place = b.add(table, b.mul(index, I64(entry_bytes)))
        found = b.insert_element(found, load_ir(b, place, entry), I32(i))
    return b.bitcast(found, i8x64.llvm)


def _by_way_of_memory(b: Builder, indices: Value) -> list[Value]:
    """Sixteen-bit lanes as i64: to load one again takes one instruction, to take it out of a vector two or three."""
    place = b.ptrtoint(cgutils.alloca_once(b, indices.type), I64)
    store_ir(b, place, indices)
    return [b.zext(load_ir(b, b.add(place, I64(2 * i)), I16), I64) for i in range(indices.type.count)]


def _in_words(b: Builder, indices: Value) -> list[Value]:
    """The same by words of four."""
    n_words = indices.type.count // 4
    words = b.bitcast(indices, ir.VectorType(I64, n_words))
    found = [b.extract_element(words, I32(i)) for i in range(n_words)]
    return [b.and_(b.lshr(word, I64(shift)), I64(0xFFFF)) for word in found for shift in (0, 16, 32, 48)]


def _codes(table: Bytes) -> tuple[Bytes, Bytes, int]:
    """The values that occur in the table, every byte as its number among them, and how many bits that takes."""
    values, codes = np.unique(table, return_inverse=True)
    n_bits = int(len(values) - 1).bit_length()
    assert n_bits * table.shape[1] <= 16, "an entry does not fit 16 bits"
    return values, codes.reshape(table.shape).astype(np.uint8), n_bits


def _packed_entries(b: Builder, table: Bytes, indices: Value) -> Value:
    """Entries with `_codes` for bytes, the first in the lowest bits."""
    _, codes, n_bits = _codes(table)
    packed = (codes.astype(np.int64) << (n_bits * np.arange(table.shape[1]))).sum(axis=1)
    n = 1 << max(6, (len(table) - 1).bit_length())
    runs = np.concatenate([packed, np.zeros(n - len(packed), np.int64)]).reshape(-1, 32).tolist()
    vectors = [ir.Constant(i16x32.llvm, run) for run in runs]
    name = "llvm.x86.avx512.vpermi2var.hi.512"  # bits 0..6 of an index choose among the 64 entries of two vectors
    found = [
        call_ir(b, name, i16x32.llvm, low, indices, high) for low, high in zip(vectors[::2], vectors[1::2], strict=True)
    ]
    bit = 64
    while len(found) > 1:
        is_set = b.icmp_unsigned("!=", b.and_(indices, constant(i16x32.llvm, bit)), constant(i16x32.llvm, 0))
        found = [b.select(is_set, high, low) for low, high in zip(found[::2], found[1::2], strict=True)]
        bit *= 2
    return found[0]


def _unpacked(b: Builder, table: Bytes, packed: Value) -> Value:
    """Packed entries as bytes: each is repeated in as many 16-bit lanes as it has pairs of bytes."""
    values, _, n_bits = _codes(table)
    n_pairs = table.shape[1] // 2
    lanes = shuffle_ir(b, packed, packed, [lane // n_pairs for lane in range(32)])
    shifts = ir.Constant(i16x32.llvm, [2 * n_bits * (lane % n_pairs) for lane in range(32)])
    pair = b.lshr(lanes, shifts)
    low = b.and_(pair, constant(i16x32.llvm, (1 << n_bits) - 1))
    high = b.and_(b.shl(pair, constant(i16x32.llvm, 8 - n_bits)), constant(i16x32.llvm, ((1 << n_bits) - 1) << 8))
    sixteen = [*values.tolist(), *[0] * (16 - len(values))]
    codes = b.bitcast(b.or_(low, high), i8x64.llvm)
    return call_ir(b, "llvm.x86.avx512.pshuf.b.512", i8x64.llvm, ir.Constant(i8x64.llvm, 4 * sixteen), codes)


@verb
def stack_bytes(typing_context: Any, n: Any) -> Any:
    """The address of n bytes on the stack, a multiple of 64, until the kernel returns; n is a literal.

    A place in the source is given the same bytes every time, also in a loop.
    """
    if not isinstance(n, types.IntegerLiteral):
        return None

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        place = cgutils.alloca_once(b, ir.ArrayType(I8, n.literal_value))
        place.align = 64
        return b.ptrtoint(place, I64)

    return types.intp(n), emit
