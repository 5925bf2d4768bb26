"""What the bytes of the i-quants with grids mean, in NumPy and float64, and blocks of them for the tests.

Straight from the layouts in ggml-common.h. Grids and signs are the `gguf` package's; the kernels have no table of
signs, so that is a second opinion.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from gguf import quants

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

SIGN_BYTES = np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8)
LARGEST_SCALE = {"IQ1_S": 7, "IQ1_M": 7}  # 15 for the others


def grid_of(name: str) -> Doubles:
    table = getattr(quants, name)
    table.init_grid()
    return np.asarray(table.grid[0, 0], np.float64)


def words(blocks: Bytes, start: int, stop: int, dtype: npt.DTypeLike) -> Ints:
    return np.ascontiguousarray(blocks[..., start:stop]).view(dtype).astype(np.int64)


def half(blocks: Bytes) -> Doubles:
    return np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float64)


def nibbles(packed: Bytes) -> Ints:
    """Low nibble, high nibble, low nibble ..."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1).astype(np.int64)


def fields(packed: Ints, shifts: list[int], mask: int) -> Ints:
    """Each number's fields from bit shifts[0], shifts[1] ... on, one after the other."""
    return ((packed[..., None] >> np.array(shifts)) & mask).reshape(*packed.shape[:-1], -1)


def entries(name: str, index: Ints) -> Doubles:
    return grid_of(name)[index].reshape(*index.shape[:-1], 256)


def signs(packed: Bytes) -> Doubles:
    """A bit for each weight, 1 for minus."""
    return 1.0 - 2.0 * np.unpackbits(packed, axis=-1, bitorder="little")


def sevens(packed: Ints) -> Doubles:
    return signs(SIGN_BYTES[fields(packed, [0, 7, 14, 21], 127)])


def scaled(scale: Doubles, weights: Doubles) -> Doubles:
    """Every scale is that of an equal run of the weights."""
    return np.repeat(scale, 256 // scale.shape[-1], axis=-1) * weights


def _iq2_xxs(blocks: Bytes) -> Doubles:
    pairs = words(blocks, 2, 66, "<u4").reshape(*blocks.shape[:-1], 8, 2)
    index, rest = fields(pairs[..., 0], [0, 8, 16, 24], 255), pairs[..., 1]
    return scaled(half(blocks) * (0.5 + (rest >> 28)) / 4, entries("IQ2_XXS", index) * sevens(rest))


def _iq2_xs(blocks: Bytes) -> Doubles:
    qs = words(blocks, 2, 66, "<u2")
    weights = entries("IQ2_XS", qs & 511) * signs(SIGN_BYTES[qs >> 9])
    return scaled(half(blocks) * (0.5 + nibbles(blocks[..., 66:74])) / 4, weights)


def _iq2_s(blocks: Bytes) -> Doubles:
    index = blocks[..., 2:34] + 256 * fields(words(blocks, 66, 74, np.uint8), [0, 2, 4, 6], 3)
    weights = entries("IQ2_S", index) * signs(blocks[..., 34:66])
    return scaled(half(blocks) * (0.5 + nibbles(blocks[..., 74:82])) / 4, weights)


def _iq3_xxs(blocks: Bytes) -> Doubles:
    rest = words(blocks, 66, 98, "<u4")
    weights = entries("IQ3_XXS", words(blocks, 2, 66, np.uint8)) * sevens(rest)
    return scaled(half(blocks) * (0.5 + (rest >> 28)) / 2, weights)


def _iq3_s(blocks: Bytes) -> Doubles:
    index = blocks[..., 2:66] + 256 * fields(words(blocks, 66, 74, np.uint8), list(range(8)), 1)
    weights = entries("IQ3_S", index) * signs(blocks[..., 74:106])
    return scaled(half(blocks) * (1 + 2 * nibbles(blocks[..., 106:110])), weights)


def _iq1_s(blocks: Bytes) -> Doubles:
    qh = words(blocks, 34, 50, "<u2")
    index = blocks[..., 2:34] + 256 * fields(qh, [0, 3, 6, 9], 7)
    delta = np.repeat(np.where(qh >> 15, -0.125, 0.125), 32, axis=-1)
    return scaled(half(blocks) * (1 + 2 * ((qh >> 12) & 7)), entries("IQ1_S", index) + delta)


def _iq1_m(blocks: Bytes) -> Doubles:
    high, scales = fields(words(blocks, 32, 48, np.uint8), [0, 4], 15), words(blocks, 48, 56, "<u2")
    index = blocks[..., :32] + 256 * (high & 7)
    delta = np.repeat(np.where(high >> 3, -0.125, 0.125), 8, axis=-1)
    bits = ((scales >> 12) << np.array([0, 4, 8, 12])).sum(axis=-1, keepdims=True)
    d = bits.astype(np.uint16).view(np.float16).astype(np.float64)
    return scaled(d * (1 + 2 * fields(scales, [0, 3, 6, 9], 7)), entries("IQ1_M", index) + delta)


_WEIGHTS: dict[str, Callable[[Bytes], Doubles]] = {
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
}
NAMES = frozenset(_WEIGHTS)


def grid_meaning(name: str, blocks: Bytes) -> tuple[Doubles, Doubles]:
    """Weights, and the offsets that they do not have."""
    weights = _WEIGHTS[name](blocks)
    return weights, np.zeros(weights.shape)


def put_scale(name: str, blocks: Bytes, scale: Doubles) -> None:
    """Write every block's super-scale."""
    bits = scale.astype(np.float16)[..., None]
    if name != "IQ1_M":
        blocks[..., :2] = bits.view(np.uint8)
        return
    for k in range(4):  # the high nibble of every second byte
        place = blocks[..., 49 + 2 * k]
        place[...] = (place & 15) | ((bits.view(np.uint16)[..., 0] >> (4 * k)) & 15) << 4


def put_extremes(name: str, blocks: Bytes) -> None:
    """Rows in turn: the largest weights and scales, the most negative ones, and the smallest of both."""
    sums = grid_of(name).sum(axis=-1)
    one_bit = name.startswith("IQ1")
    largest, smallest = int(sums.argmax()), int(sums.argmin())
    top = LARGEST_SCALE.get(name, 15)
    for r, row in enumerate(blocks):
        if r % 3 == 0:
            _fill(name, row, largest, top, minus=False)
        elif r % 3 == 1:
            _fill(name, row, smallest if one_bit else largest, top, minus=True)
        else:
            _fill(name, row, smallest, 0, minus=False)


def _fill(name: str, blocks: Bytes, index: int, s: int, *, minus: bool) -> None:
    """The same index, sign and sub-scale everywhere; the super-scale is left to `put_scale`."""
    low, high = index & 255, index >> 8
    ones = 255 if minus else 0
    word = np.array([s << 28 | (0x0FFFFFFF if minus else 0)], "<u4").view(np.uint8)
    if name == "IQ2_XXS":
        blocks[..., 2:66] = np.tile(np.concatenate([np.full(4, index, np.uint8), word]), 8)
    elif name == "IQ2_XS":
        blocks[..., 2:66] = np.tile(np.array([index | (0xFE00 if minus else 0)], "<u2").view(np.uint8), 32)
        blocks[..., 66:74] = 17 * s
    elif name == "IQ2_S":
        blocks[..., 2:34], blocks[..., 34:66], blocks[..., 66:74], blocks[..., 74:82] = low, ones, 0x55 * high, 17 * s
    elif name == "IQ3_XXS":
        blocks[..., 2:66], blocks[..., 66:98] = index, np.tile(word, 8)
    elif name == "IQ3_S":
        blocks[..., 2:66], blocks[..., 66:74], blocks[..., 74:106] = low, 255 * high, ones
        blocks[..., 106:110] = 17 * s
    elif name == "IQ1_S":
        qh = 0o1111 * high | s << 12 | (0x8000 if minus else 0)
        blocks[..., 2:34], blocks[..., 34:50] = low, np.tile(np.array([qh], "<u2").view(np.uint8), 8)
    else:
        blocks[..., :32], blocks[..., 32:48] = low, 17 * (high | (8 if minus else 0))
        blocks[..., 48:56] = np.tile(np.array([0o1111 * s], "<u2").view(np.uint8), 4)
