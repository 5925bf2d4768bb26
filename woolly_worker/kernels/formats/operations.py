"""How a tensor type becomes a `Format`: its parts go in, the operations of a step come out.

The operations are closures over the parts. Only operations are compiled by themselves and kept on disk (see
`object_cache.py`, which knows them by name), so the parts are `inline` and never cached.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from woolly_worker.kernels.activations import Activation
from woolly_worker.kernels.cpu import CPU
from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.fours import InFours
from woolly_worker.kernels.formats.legacy_on_matrix_unit import LEAST_TOKENS, LegacyUnit, legacy_on_matrix_unit
from woolly_worker.kernels.formats.one_token import dot_of_parts, sixteen_at_once
from woolly_worker.kernels.jit import LazyOp, inline, op
from woolly_worker.kernels.matmul import COUNT_FIELD, run_embedding, run_matmul, run_one_token, tile_of_tokens
from woolly_worker.kernels.matrix_unit import matmul_on_matrix_unit
from woolly_worker.kernels.matrix_unit_parts import MatrixUnit
from woolly_worker.kernels.simd import store_f32
from woolly_worker.kernels.step import field


def quantised(
    name: str,
    *,
    block: int,
    block_bytes: int,
    activation: Activation,
    panel_block_bytes: int,
    parts: int,
    unpack_block: Any,
    multiply_block: Any,
    dequantize: Any,
    in_fours: InFours | None = None,
    row_parts: Any = None,
    prepare_block: Any = None,
    multiply_prepared: Any = None,
    matrix_unit: MatrixUnit | None = None,
    legacy_unit: LegacyUnit | None = None,
) -> Format:
    """A type with quant blocks. `run_matmul` says what the parts have to do; prepare_block and multiply_prepared may
    stand in for unpack_block and multiply_block where tokens are few. Of in_fours (see `fours.py`) and row_parts (see
    `one_token.py`) a type has one. CPUs with a matrix unit use the last two, of which a type has one or none: see
    `matrix_unit.py` and `legacy_on_matrix_unit.py`."""
    sizes = (block_bytes, panel_block_bytes)
    prepare_few, multiply_few = prepare_block or unpack_block, multiply_prepared or multiply_block

    assert (in_fours is None) != (row_parts is None)
    if in_fours is not None:
        row_dot, rows_of_one_token = in_fours
    else:
        row_dot = dot_of_parts(row_parts)
        rows_of_one_token = sixteen_at_once(row_parts, row_dot)

    whole_tile = tile_of_tokens(parts, multiply_block)

    def matmul(args, step, member, counter):
        run_matmul(
            args,
            step,
            member,
            counter,
            block,
            sizes,
            parts,
            unpack_block,
            multiply_block,
            row_dot,
            rows_of_one_token,
            prepare_few,
            multiply_few,
            whole_tile,
        )

    if CPU.has_matrix_unit and matrix_unit is not None:
        assert parts == 1, "the matrix unit adds a row up in one sum"
        matmul = _on_matrix_unit(rows_of_one_token, matmul_on_matrix_unit(matrix_unit, block_bytes, row_dot))
    elif CPU.has_matrix_unit and legacy_unit is not None:
        many = legacy_on_matrix_unit(sizes, legacy_unit, row_dot)
        matmul = _by_number_of_tokens(matmul, many)

    return Format(
        name=name,
        block=block,
        block_bytes=block_bytes,
        activation=activation,
        matmul=operation(matmul, name),
        embed=embedding(dequantize, name),
        dequantize=numbers_for_python(dequantize, name),
        row_dot=dot_for_python(row_dot, name),
        panel_block_bytes=panel_block_bytes,
        parts=parts,
        on_matrix_unit=CPU.has_matrix_unit and matrix_unit is not None,
    )


def _on_matrix_unit(rows_of_one_token: Any, several: Any) -> Any:
    """The operation for a CPU that has a matrix unit, which pays from two tokens on."""

    def matmul(args, step, member, counter):
        n_tokens = field(step, field(args, COUNT_FIELD))
        if n_tokens > 1:
            several(args, step, member, counter)
        elif n_tokens == 1:
            run_one_token(args, member, counter, rows_of_one_token)

    return matmul


def _by_number_of_tokens(few: Any, many: Any) -> Any:
    """The operation for such a CPU where the matrix unit pays from some number of tokens on."""
    with_few_tokens = inline(few)

    def matmul(args, step, member, counter):
        if field(step, field(args, COUNT_FIELD)) < LEAST_TOKENS:
            with_few_tokens(args, step, member, counter)
        else:
            many(args, step, member, counter)

    return matmul


def operation(function: Any, name: str) -> LazyOp:
    """A closure as an operation under a name of its own: in the cache, and in messages."""
    function.__name__ = function.__qualname__ = f"{function.__name__}_{name.lower()}"
    return op(function)


def embedding(dequantize: Any, name: str) -> LazyOp:
    """dequantize(row, n_cols, out) writes a row as f32, with ggml's own operations."""

    def embed(args, step, member, counter):
        run_embedding(args, step, counter, dequantize)

    return operation(embed, name)


def numbers_for_python(dequantize: Any, name: str) -> Callable[[int, int, int], None]:
    def numbers(row, n_cols, out, unused):
        dequantize(row, n_cols, out)

    run = operation(numbers, name)
    return lambda row, n_cols, out: run(row, n_cols, out, 0)


def dot_for_python(row_dot: Any, name: str) -> Callable[[int, int, int], float]:
    def dot(row, x, n_cols, out):
        store_f32(out, row_dot(row, x, n_cols))

    run = operation(dot, name)

    def call(row: int, x: int, n_cols: int) -> float:
        result = ctypes.c_float()
        run(row, x, n_cols, ctypes.addressof(result))
        return result.value

    return call
