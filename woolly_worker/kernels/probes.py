"""What this machine can do at the most: loops that do one thing each, as fast as it goes, for measurements to be
compared with. No model calls them.
"""

from woolly_worker.kernels.jit import kernel
from woolly_worker.kernels.simd import (
    add,
    dot_groups,
    dot_u8i8,
    hsum,
    load_i8x64,
    load_i32x16,
    matrix_begin,
    matrix_dot_u8i8,
    matrix_end,
    matrix_load,
    matrix_zero,
    prefetch,
    vector_of,
    zero_i32x16,
    zeros_i32,
)
from woolly_worker.kernels.simd.sizes import IN_SHORTS, MATRIX_BYTES, MATRIX_ROW_BYTES

READ_STEP_BYTES = 256  # `read_all` takes whole steps
PROBE_BYTES = 2048  # memory that `multiply_bytes` reads again and again: it stays in L1
PRODUCTS_PER_ROUND = 4 * 8 * 64 if IN_SHORTS else 12 * 64
MATRIX_PRODUCTS_PER_ROUND = 4 * 16 * 16 * 64


@kernel
def read_all(address, n_bytes):
    """The sum of `n_bytes` (a multiple of READ_STEP_BYTES) as i32s, four vectors at a time: as memory delivers them."""
    a = b = c = d = zero_i32x16()
    for i in range(0, n_bytes, 256):
        prefetch(address + i + 1024)
        prefetch(address + i + 1088)
        prefetch(address + i + 1152)
        prefetch(address + i + 1216)
        a = add(a, load_i32x16(address + i))
        b = add(b, load_i32x16(address + i + 64))
        c = add(c, load_i32x16(address + i + 128))
        d = add(d, load_i32x16(address + i + 192))
    return hsum(add(add(a, b), add(c, d)))


@kernel
def _multiply_bytes(address, n_rounds):
    """`n_rounds` times PRODUCTS_PER_ROUND multiply-adds of unsigned with signed bytes, by `dot_u8i8` into registers.

    Twelve accumulators hide the latency of the instruction. One operand comes from PROBE_BYTES of memory at `address`,
    at a place that changes with every round: else a compiler could take the products out of the loop.
    """
    u = load_i8x64(address)
    a = b = c = d = e = f = g = h = i = j = k = m = zero_i32x16()
    for n in range(n_rounds):
        x = address + 64 * (n & 15)
        a = dot_u8i8(a, u, load_i8x64(x), 255)
        b = dot_u8i8(b, u, load_i8x64(x + 64), 255)
        c = dot_u8i8(c, u, load_i8x64(x + 128), 255)
        d = dot_u8i8(d, u, load_i8x64(x + 192), 255)
        e = dot_u8i8(e, u, load_i8x64(x + 256), 255)
        f = dot_u8i8(f, u, load_i8x64(x + 320), 255)
        g = dot_u8i8(g, u, load_i8x64(x + 384), 255)
        h = dot_u8i8(h, u, load_i8x64(x + 448), 255)
        i = dot_u8i8(i, u, load_i8x64(x + 512), 255)
        j = dot_u8i8(j, u, load_i8x64(x + 576), 255)
        k = dot_u8i8(k, u, load_i8x64(x + 640), 255)
        m = dot_u8i8(m, u, load_i8x64(x + 704), 255)
    s = add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)))
    return hsum(add(s, add(add(i, j), add(k, m))))


@kernel
def _multiply_bytes_in_shorts(address, n_rounds):
    """The same where products of bytes are added up in 16 bits first: four tokens times sixteen rows, as kernels have
    it, with bytes small enough for eight sums."""
    a = zeros_i32(4)
    for n in range(n_rounds):
        x = address + 1024 + 32 * (n & 15)
        a = dot_groups(a, address, x, 64, 8, 15)
    return hsum(add(add(vector_of(a, 0), vector_of(a, 1)), add(vector_of(a, 2), vector_of(a, 3))))


multiply_bytes = _multiply_bytes_in_shorts if IN_SHORTS else _multiply_bytes


@kernel
def multiply_matrices(address, n_rounds):
    """`n_rounds` times MATRIX_PRODUCTS_PER_ROUND multiply-adds by the matrix unit, of two times two registers' worth of
    bytes from PROBE_BYTES of memory at `address`. Only for CPUs that have one."""
    matrix_begin(16)
    matrix_zero(0)
    matrix_zero(1)
    matrix_zero(2)
    matrix_zero(3)
    matrix_load(4, address, MATRIX_ROW_BYTES)
    matrix_load(5, address + MATRIX_BYTES, MATRIX_ROW_BYTES)
    matrix_load(6, address, MATRIX_ROW_BYTES)
    matrix_load(7, address + MATRIX_BYTES, MATRIX_ROW_BYTES)
    for _ in range(n_rounds):
        matrix_dot_u8i8(0, 4, 6)
        matrix_dot_u8i8(1, 4, 7)
        matrix_dot_u8i8(2, 5, 6)
        matrix_dot_u8i8(3, 5, 7)
    matrix_end()
