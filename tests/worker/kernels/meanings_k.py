"""What the bytes of further formats with blocks of 256 mean: Q2_K, Q3_K, Q5_K, IQ4_XS, TQ1_0 and TQ2_0.

The other half of `quant_blocks.py`, whose docstring says what this is for. Every function takes blocks as
(n_rows, n_blocks, bytes) and returns (scaled, offset) in float64, both (n_rows, n_blocks, ...) with 256 weights in a
block: weight = scaled - offset.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Parts = tuple[Doubles, Doubles]

# Where a block has its f16 scales.
SCALES = {"Q5_K": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,)}

# The bytes of the sub-scales, and two values for them: both ends of the range, or all and only some of the bits.
_SUB_SCALES = {
    "Q5_K": (slice(4, 16), 0xFF, 0x3F),
    "Q2_K": (slice(0, 16), 0xFF, 0x0F),
    "Q3_K": (slice(96, 108), 0xFF, 0x00),
    "IQ4_XS": (slice(2, 8), 0xFF, 0x00),
}


def set_extremes(name: str, blocks: Bytes) -> None:
    """Every quantised value and sub-scale at an end of its range; the rows have all combinations."""
    row = np.arange(len(blocks))
    blocks[:] = np.where(row % 2 == 0, 0xFF, 0x00)[:, None, None]
    if name in _SUB_SCALES:
        where, one, other = _SUB_SCALES[name]
        blocks[:, :, where] = np.where(row % 3 == 0, one, other)[:, None, None]


def half(blocks: Bytes, place: int) -> Doubles:
    """The f16 at a place of every block, shaped to multiply (n_rows, n_blocks, ...)."""
    return np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16).astype(np.float64)


def bits(values: npt.NDArray[np.int64], first: int, n: int) -> npt.NDArray[np.int64]:
    return (values >> first) & ((1 << n) - 1)


def _of_sub_blocks(q: npt.NDArray[np.int64], factor: Doubles, offset: Doubles) -> Parts:
    """q (n_rows, n_blocks, 256), and a factor and an offset for every sub-block."""
    n = 256 // factor.shape[-1]
    return np.repeat(factor, n, axis=-1) * q, np.repeat(offset, n, axis=-1)


def _q5_k(blocks: Bytes) -> Parts:
    b = blocks.astype(np.int64)
    q, scales, mins = (np.zeros((*b.shape[:2], n), np.int64) for n in (256, 8, 8))
    for j in range(8):
        if j < 4:
            scales[..., j], mins[..., j] = bits(b[..., 4 + j], 0, 6), bits(b[..., 8 + j], 0, 6)
        else:
            low = b[..., 8 + j]
            scales[..., j] = bits(low, 0, 4) + 16 * bits(b[..., j], 6, 2)
            mins[..., j] = bits(low, 4, 4) + 16 * bits(b[..., 4 + j], 6, 2)
        nibbles = b[..., 48 + 32 * (j // 2) : 80 + 32 * (j // 2)]
        q[..., 32 * j : 32 * j + 32] = bits(nibbles, 4 * (j % 2), 4) + 16 * bits(b[..., 16:48], j, 1)
    return _of_sub_blocks(q, half(blocks, 0) * scales, half(blocks, 2) * mins)


def _two_bits(qs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """64 bytes as 256 values: byte 32 h + l holds those of weights 128 h + l, + 32, + 64 and + 96."""
    runs = qs.reshape(*qs.shape[:2], 2, 1, 32)
    return np.concatenate([bits(runs, 2 * k, 2) for k in range(4)], axis=3).reshape(*qs.shape[:2], 256)


def _q2_k(blocks: Bytes) -> Parts:
    b = blocks.astype(np.int64)
    scales, mins = bits(b[..., :16], 0, 4), bits(b[..., :16], 4, 4)
    return _of_sub_blocks(_two_bits(b[..., 16:80]), half(blocks, 80) * scales, half(blocks, 82) * mins)


def _q3_k(blocks: Bytes) -> Parts:
    b = blocks.astype(np.int64)
    third = np.concatenate([bits(b[..., :32], n, 1) for n in range(8)], axis=-1)
    j = np.arange(16)
    packed = b[..., 96:108]
    scales = bits(packed[..., j % 8], 4 * (j // 8), 4) + 16 * bits(packed[..., 8 + j % 4], 2 * (j // 4), 2) - 32
    factor = half(blocks, 108) * scales
    return _of_sub_blocks(_two_bits(b[..., 32:96]) + 4 * third, factor, 4 * factor)


def _iq4_xs(blocks: Bytes) -> Parts:
    b = blocks.astype(np.int64)
    j = np.arange(8)
    high = (b[..., 2] + 256 * b[..., 3])[..., None]
    scales = bits(b[..., 4 + j // 2], 4 * (j % 2), 4) + 16 * bits(high, 2 * j, 2) - 32
    nibbles = b[..., 8:].reshape(*b.shape[:2], 8, 16)
    q = np.concatenate([bits(nibbles, 0, 4), bits(nibbles, 4, 4)], axis=-1).reshape(*b.shape[:2], 256)
    values = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    factor = half(blocks, 0) * scales
    return _of_sub_blocks(values[q] + 128, factor, 128 * factor)


def _tq1_0(blocks: Bytes) -> Parts:
    """A byte is a fraction of 256 in base 3: its digit n is the integer part of 3**(n + 1) * byte / 256, modulo 3."""
    b = blocks.astype(np.int64)
    runs = [(b[..., 0:32], 5), (b[..., 32:48], 5), (b[..., 48:52], 4)]
    q = np.concatenate([3 ** (n + 1) * part // 256 % 3 for part, digits in runs for n in range(digits)], axis=-1)
    return _of_sub_blocks(q, half(blocks, 52), half(blocks, 52))


def _tq2_0(blocks: Bytes) -> Parts:
    return _of_sub_blocks(_two_bits(blocks[..., :64].astype(np.int64)), half(blocks, 64), half(blocks, 64))


MEANINGS: dict[str, Callable[[Bytes], Parts]] = {
    "Q5_K": _q5_k,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "IQ4_XS": _iq4_xs,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
}
