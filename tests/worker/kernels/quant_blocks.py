"""Quant blocks for the tests of formats: random bytes with sane scales, extreme ones, and what they mean.

The meaning is written down here a second time, in NumPy and float64, straight from the layouts in ggml-common.h; it
shares nothing with the kernels. Every weight is `scale * q - offset`, exact in float64.
"""

from dataclasses import dataclass

import meanings_k
import numpy as np
import numpy.typing as npt
from meanings_grid import NAMES, grid_meaning, put_extremes, put_scale

from woolly_worker.kernels.formats.format import Format
from woolly_worker.kernels.formats.registry import FORMATS

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Meaning:
    """Rows of exact weights, and for each the sum of the magnitudes that it is the difference of."""

    weights: Doubles
    magnitudes: Doubles


def random_rows(name: str, n_rows: int, n_cols: int, rng: np.random.Generator, *, extreme: bool = False) -> Bytes:
    """Rows of a format. `extreme`: every quantised value at the end of its range, scales too."""
    format_ = FORMATS[name]
    if format_.block == 1:
        return float_rows(name, n_rows, n_cols, rng)
    n_blocks = n_cols // format_.block
    blocks = rng.integers(0, 256, (n_rows, n_blocks, format_.block_bytes)).astype(np.uint8)
    if name in NAMES:
        if extreme:
            put_extremes(name, blocks)
        scale = rng.uniform(0.5, 2, (n_rows, n_blocks)) * rng.choice([-1, 1], (n_rows, n_blocks)) * 2.0**-10
        put_scale(name, blocks, scale)
        return blocks.reshape(n_rows, -1)
    if extreme and name in meanings_k.MEANINGS:
        meanings_k.set_extremes(name, blocks)
    elif extreme:
        blocks[:] = np.where(np.arange(n_rows) % 2 == 0, *ENDS[name])[:, None, None]
        if name == "Q6_K":
            blocks[:, :, 192:208] = np.where(np.arange(n_rows) % 3 == 0, 0x7F, 0x80)[:, None, None]
    if name == "MXFP4":
        blocks[:, :, 0] = rng.integers(114, 120, (n_rows, n_blocks))
    for place in HALVES_AT[name]:
        scale = rng.uniform(0.5, 2, (n_rows, n_blocks)) * rng.choice([-1, 1], (n_rows, n_blocks)) * 2.0**-10
        blocks[:, :, place : place + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(n_rows, -1)


def float_rows(name: str, n_rows: int, n_cols: int, rng: np.random.Generator) -> Bytes:
    x = (rng.standard_normal((n_rows, n_cols)) * 10.0 ** rng.integers(-4, 2, (n_rows, 1))).astype(np.float32)
    if name == "F32":
        return x.view(np.uint8)
    if name == "F16":
        return x.astype(np.float16).view(np.uint8)
    return np.ascontiguousarray((x.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8)


def halves(blocks: Bytes, place: int) -> Doubles:
    return np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16).astype(np.float64)


def meaning(name: str, rows: Bytes) -> Meaning:
    format_ = FORMATS[name]
    if format_.block == 1:
        return _of_floats(name, rows)
    blocks = rows.reshape(len(rows), -1, format_.block_bytes)
    scaled, offset = grid_meaning(name, blocks) if name in NAMES else MEANINGS[name](blocks)
    flat = [part.reshape(len(rows), -1) for part in (scaled - offset, np.abs(scaled) + np.abs(offset))]
    return Meaning(*flat)


def _of_floats(name: str, rows: Bytes) -> Meaning:
    rows = np.ascontiguousarray(rows)
    if name == "F32":
        weights = rows.view(np.float32).astype(np.float64)
    elif name == "F16":
        weights = rows.view(np.float16).astype(np.float64)
    else:
        weights = (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return Meaning(weights, np.abs(weights))


def _q4_0(blocks: Bytes) -> tuple[Doubles, Doubles]:
    low, high = blocks[..., 2:] & 15, blocks[..., 2:] >> 4
    d = halves(blocks, 0)
    return d * np.concatenate([low, high], axis=-1), d * np.full(32, 8.0)


def _q4_1(blocks: Bytes) -> tuple[Doubles, Doubles]:
    low, high = blocks[..., 4:] & 15, blocks[..., 4:] >> 4
    q = np.concatenate([low, high], axis=-1)
    return halves(blocks, 0) * q, np.broadcast_to(-halves(blocks, 2), q.shape)


def _fifth_bits(blocks: Bytes, place: int) -> Doubles:
    return np.unpackbits(blocks[..., place : place + 4], axis=-1, bitorder="little") * 16.0


def _q5_0(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.concatenate([blocks[..., 6:] & 15, blocks[..., 6:] >> 4], axis=-1) + _fifth_bits(blocks, 2)
    return halves(blocks, 0) * q, halves(blocks, 0) * np.full(32, 16.0)


def _q5_1(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.concatenate([blocks[..., 8:] & 15, blocks[..., 8:] >> 4], axis=-1) + _fifth_bits(blocks, 4)
    return halves(blocks, 0) * q, np.broadcast_to(-halves(blocks, 2), q.shape)


IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float64)


def _iq4_nl(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    return halves(blocks, 0) * IQ4_NL_VALUES[q], np.zeros(q.shape)


def _mxfp4(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)
    return 2.0 ** (blocks[..., :1].astype(np.float64) - 128) * MXFP4_VALUES[q], np.zeros(q.shape)


def _q8_0(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    return halves(blocks, 0) * q, np.zeros(q.shape)


def _q4_k(blocks: Bytes) -> tuple[Doubles, Doubles]:
    s = blocks[..., 4:16].astype(np.int64)
    low_scales, low_mins, rest = s[..., :4] & 63, s[..., 4:8] & 63, s[..., 8:]
    scales = np.concatenate([low_scales, (rest & 15) | (s[..., :4] >> 6) << 4], axis=-1)
    mins = np.concatenate([low_mins, (rest >> 4) | (s[..., 4:8] >> 6) << 4], axis=-1)
    runs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    q = np.stack([runs & 15, runs >> 4], axis=3).reshape(*blocks.shape[:2], 8, 32)
    scaled = (halves(blocks, 0) * scales)[..., None] * q
    return scaled, np.broadcast_to((halves(blocks, 2) * mins)[..., None], scaled.shape)


def _q6_k(blocks: Bytes) -> tuple[Doubles, Doubles]:
    q = np.zeros((*blocks.shape[:2], 256), np.int64)
    for half in range(2):
        ql, qh = blocks[..., 64 * half : 64 * half + 64], blocks[..., 128 + 32 * half : 160 + 32 * half]
        parts = [ql[..., :32] & 15, ql[..., 32:] & 15, ql[..., :32] >> 4, ql[..., 32:] >> 4]
        for k, part in enumerate(parts):
            start = 128 * half + 32 * k
            q[..., start : start + 32] = part | ((qh >> (2 * k)) & 3) << 4
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float64)
    factor = np.repeat(halves(blocks, 208) * scales, 16, axis=-1)
    return factor * q, factor * 32.0


MEANINGS = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
    "MXFP4": _mxfp4,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
    **meanings_k.MEANINGS,
}
HALVES_AT: dict[str, tuple[int, ...]] = {  # where a block keeps its f16 scales
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "MXFP4": (),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
    **meanings_k.SCALES,
}
ENDS = {  # bytes that make every value the smallest, and the largest
    "Q4_0": (0x00, 0xFF),
    "Q4_1": (0x00, 0xFF),
    "Q5_0": (0x00, 0xFF),
    "Q5_1": (0x00, 0xFF),
    "Q8_0": (0x80, 0x7F),
    "IQ4_NL": (0x00, 0xFF),
    "MXFP4": (0x77, 0xFF),
    "Q4_K": (0xFF, 0xFF),
    "Q6_K": (0x00, 0xFF),
}


def columns_to_try(format_: Format) -> tuple[int, ...]:
    """Row lengths: short ones, odd ones where the format has them, and some blocks."""
    if format_.block == 1:
        return (1, 2, 15, 16, 17, 31, 100, 172, 256, 1300)  # the last one has several strips, see float_loops.py
    # Less than one round of the parts, half of one, whole rounds, and something behind them.
    return tuple(format_.block * n for n in ((1, 2, 3, 21) if format_.block == 256 else (1, 8, 16, 37)))
