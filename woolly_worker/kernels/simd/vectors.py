"""SIMD vectors, and register tiles of them, as Numba types.

`Vec('f32', 16)` is sixteen floats in one LLVM vector value; LLVM legalises the width for the CPU: one 512-bit
register, two of 256 bits, or four of 128. `Tile(vec, n)` is n such vectors that live in registers together, one for
each token (or row) that a kernel treats at once. `simd.py` holds the verbs over both.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import models, register_model

ELEMENTS: dict[str, ir.Type] = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f16": ir.HalfType(),
    "f32": ir.FloatType(),
}
I32 = ir.IntType(32)
I64 = ir.IntType(64)


class Vec(types.Type):
    """`n` lanes of one element type."""

    def __init__(self, element: str, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"Vec({element} x {n})")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(ELEMENTS[self.element], self.n)


class Tile(types.Type):
    """`n` vectors of one type, held in registers."""

    def __init__(self, vec: Vec, n: int) -> None:
        self.vec, self.n = vec, n
        super().__init__(name=f"Tile({vec.name} x {n})")

    @property
    def llvm(self) -> ir.ArrayType:
        return ir.ArrayType(self.vec.llvm, self.n)


@register_model(Vec)
@register_model(Tile)
class _LlvmValue(models.PrimitiveModel):
    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, front_end_type.llvm)


f32x16 = Vec("f32", 16)
f32x4 = Vec("f32", 4)
i32x16 = Vec("i32", 16)
i32x8 = Vec("i32", 8)
i32x4 = Vec("i32", 4)
i16x8 = Vec("i16", 8)
i16x16 = Vec("i16", 16)
i16x32 = Vec("i16", 32)
i8x16 = Vec("i8", 16)
i8x32 = Vec("i8", 32)
i8x64 = Vec("i8", 64)
f16x16 = Vec("f16", 16)
