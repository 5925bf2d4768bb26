"""The vocabulary that kernels are written in: SIMD vectors as Numba types, and verbs over them.

    vectors      the types: Vec (lanes) and Tile (several vectors that live in registers together)
    memory       load, store, prefetch
    arithmetic   add, fma, hsum and their kin
    bytes        products of bytes, summed: dot_u8i8, dot_groups
    products     floats: rows times tokens
    conversion   types and orders of lanes
    quarters     four quant blocks at once
    tables       entries of grids, and scratch on the stack
    lookup       constant lanes, and tables of sixteen bytes
    tiles        the verbs over tiles
    gathers      something from each of sixteen rows
    matrix_unit  the registers of a matrix unit, where the CPU has one
    shared       memory that several threads write to
    lowering     how all of them become LLVM IR

Every verb does the same IEEE operations in the same order on every CPU.

What is imported from here is a name, and its module is loaded when a kernel is compiled (see `jit.Deferred`).
"""

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from woolly_worker.kernels.jit import Deferred

_WORDS = {
    "memory": """
        load_f16 load_f16x16 load_f32 load_f32x16 load_first_f32x16 load_first_i16x16 load_i16 load_i16x16
        load_i16x8 load_i32 load_i32x16 load_i32x8 load_i64 load_i8 load_i8x16 load_i8x32 load_i8x64 load_u8
        prefetch prefetch_here store store_apart store_bytes_apart store_f16 store_f32 store_first store_i16 store_i32
        store_i64 store_i8
    """,
    "arithmetic": """
        absolute add add_to_exponent and_bits band bor bxor choose div dot_i16 filled_like
        flip_even_signs fma fma_scalar hadamard hmax hsum maximum minimum minus_literal mul negate or_bits
        shift_halves shift_left shift_right shift_right_signed shift_sixteens sqrt_f32 sub xor_bits
        zero_where_less
    """,
    "bytes": """
        dot_bytes_each dot_groups dot_groups_times dot_i8i8 dot_i8i8_times dot_times dot_u8i8
        spread_factors to_factors
    """,
    "products": """
        fma_products fma_row four_vectors lanes_of load_tokens sums_of_sixteen two_vectors
        zero_products
    """,
    "conversion": """
        as_f16x16 as_f32x16 as_i16x32 as_i32x16 as_i8x32 as_i8x64 bytes_from_bits concat first_half first_lane
        first_lanes first_lanes_or high_halves_f32 lane low_halves_f32 narrow_to_i16 narrow_to_i8 round_to_i32
        sign_extend sign_extend_to_i16 sixteen_bytes sixteen_twice splat_f32x16 splat_i32x16 splat_i32x8 spread
        to_f16 to_f32 twice widen_bytes with_lane word_of zero_extend zero_extend_to_i16 zero_f32x16 zero_i32x16
        zero_i32x8
    """,
    "quarters": """
        first_of_quarters four_f32 in_quarters load_four_f16 load_four_f32 load_four_i32 load_quarters
        mins_of_quarters quarter_sums shift_right_in_quarters sum_in_order sums_of_eight sums_of_four two_factors
    """,
    "tables": """
        stack_bytes
    """,
    "lookup": """
        lanes_i8x16 shift_right_by
    """,
    "tiles": """
        accumulate_each accumulate_splat_each add_each add_product_each dot_pairs dot_shorts_each
        fma_splat_each load_each part_of store_each sub_scaled_each sub_shifted_each
        sub_splat_each tile_size vector_of zeros_f32 zeros_f32_like zeros_i32 zeros_i32_like
    """,
    "gathers": """
        gather_columns gather_first_halves_f32 gather_first_i32 gather_i32
    """,
    "matrix_unit": """
        bytes_as_halves interleave_bytes matrix_begin matrix_begin_runs matrix_dot_i8i8 matrix_dot_i8u8
        matrix_dot_u8i8 matrix_end matrix_load matrix_store matrix_zero pair_products
    """,
    "shared": """
        call_op fetch_add futex load_shared pause
    """,
}
_HOME = {word: module for module, words in _WORDS.items() for word in words.split()}


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def __getattr__(word: str) -> Any:
    if word not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {word!r}")
    deferred = globals()[word] = Deferred(lambda: getattr(_module(_HOME[word]), word))
    return deferred


def byte_table(make: Callable[[], Sequence[int]]) -> Any:
    """See `lookup.byte_table`."""
    return Deferred(lambda: _module("lookup").byte_table(make))


def grid_verbs(name: str, make: Callable[[], Any]) -> tuple[Any, Any]:
    """See `tables.grid_verbs`."""
    verbs = functools.cache(lambda: _module("tables").grid_verbs(name, make))
    return Deferred(lambda: verbs()[0]), Deferred(lambda: verbs()[1])
