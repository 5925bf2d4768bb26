"""Verbs that take something from each of sixteen rows, which lie apart: a lane of the results is a row.

Row r lies at `address + r * stride`.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from woolly_worker.kernels.simd.lowering import (
    Builder,
    Value,
    extend_half_ir,
    load_ir,
    shuffle_ir,
    verb,
)
from woolly_worker.kernels.simd.tiles import at_ir, pack_ir
from woolly_worker.kernels.simd.vectors import I32, I64, Tile, f32x16, i32x16


def _columns_ir(b: Builder, rows: list[Value]) -> Value:
    """Sixteen rows of four i32, turned on their side."""

    def stack(parts: list[Value]) -> Value:
        low = shuffle_ir(b, parts[0], parts[1], list(range(8)))
        high = shuffle_ir(b, parts[2], parts[3], list(range(8)))
        return shuffle_ir(b, low, high, list(range(16)))

    # a[k] holds rows k, 4 + k, 8 + k, 12 + k in its four quarters; two unpacking steps inside the quarters finish.
    a = [stack([rows[4 * quarter + k] for quarter in range(4)]) for k in range(4)]
    q = range(0, 16, 4)
    low = [lane for i in q for lane in (i, 16 + i, i + 1, 17 + i)]
    high = [lane for i in q for lane in (i + 2, 18 + i, i + 3, 19 + i)]
    first = [lane for i in q for lane in (i, i + 1, 16 + i, 17 + i)]
    last = [lane for i in q for lane in (i + 2, i + 3, 18 + i, 19 + i)]
    t0, t1 = shuffle_ir(b, a[0], a[1], low), shuffle_ir(b, a[0], a[1], high)
    t2, t3 = shuffle_ir(b, a[2], a[3], low), shuffle_ir(b, a[2], a[3], high)
    columns = [
        shuffle_ir(b, t0, t2, first),
        shuffle_ir(b, t0, t2, last),
        shuffle_ir(b, t1, t3, first),
        shuffle_ir(b, t1, t3, last),
    ]
    return pack_ir(b, columns)


_COLUMNS = Tile(i32x16, 4)
_FOUR_I32 = ir.VectorType(I32, 4)


@verb
def gather_columns(typing_context: Any, address: Any, stride: Any) -> Any:
    """Sixteen rows of 16 bytes each, turned on their side: a tile of 4 i32x16 whose lanes are the rows.

    address  of row 0's bytes; row r lies at address + r * stride
    Vector c holds bytes 4 c .. 4 c + 3 of every row.
    """

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return _columns_ir(b, [load_ir(b, at_ir(b, args[0], r, args[1]), _FOUR_I32) for r in range(16)])

    return _COLUMNS(types.intp, types.intp), emit


def _row_addresses(b: Builder, address: Value, stride: Value, n: Value) -> list[Value]:
    """Of sixteen rows; of those behind the first n, the n-th again."""
    last = b.mul(stride, b.sub(n, I64(1)))
    offsets = [b.mul(stride, I64(r)) for r in range(16)]
    offsets = [b.select(b.icmp_signed("<", I64(r), n), offset, last) for r, offset in enumerate(offsets)]
    return [b.add(address, offset) for offset in offsets]


def _rows_ir(b: Builder, address: Value, stride: Value, n: Value, element: ir.Type) -> Value:
    """One element from each of sixteen rows; of rows behind the first n, the n-th again."""
    values = ir.Constant(ir.VectorType(element, 16), ir.Undefined)
    for r, row in enumerate(_row_addresses(b, address, stride, n)):
        values = b.insert_element(values, load_ir(b, row, element), I32(r))
    return values


@verb
def gather_first_halves_f32(typing_context: Any, address: Any, stride: Any, n: Any) -> Any:
    """One f16 from each of the first n of sixteen rows, n > 0, as an f32x16. Nothing behind them is read, and the rest
    is the n-th again."""

    def emit(context: Any, b: Builder, sig: Any, args: Any) -> Value:
        return extend_half_ir(b, _rows_ir(b, args[0], args[1], args[2], ir.HalfType()))

    return f32x16(types.intp, types.intp, types.intp), emit


@verb
def gather_i32(typing_context: Any, address: Any, stride: Any) -> Any:
    """One i32 from each of sixteen rows."""
    return i32x16(types.intp, types.intp), lambda context, b, sig, args: _rows_ir(b, args[0], args[1], I64(16), I32)


@verb
def gather_first_i32(typing_context: Any, address: Any, stride: Any, n: Any) -> Any:
    """One i32 from each of the first n rows, see gather_first_halves_f32."""
    return i32x16(types.intp, types.intp, types.intp), lambda context, b, sig, args: _rows_ir(
        b, args[0], args[1], args[2], I32
    )
