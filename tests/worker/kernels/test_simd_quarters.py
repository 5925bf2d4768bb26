"""Verbs over four blocks at once, and their kin, against NumPy: all exact but the sum, which has a fixed order."""

import numpy as np
import pytest
import quarter_kernels as kernels
from kernel_memory import Region, same_bits

from woolly_worker.kernels.simd.sizes import IN_SHORTS

LANES = 16


def test_quarters() -> None:
    x = np.random.default_rng(1).integers(-(2**26), 2**26, (8, LANES)).astype(np.int32)
    region, out = Region(x, np.int32, 1), Region(np.zeros((8, LANES)), np.int32)
    kernels.quarters(region.address, out.address)
    loaded, constants, shifted, mins, firsts, sums, four, eight = out.values
    raw = np.frombuffer(x.tobytes(), np.uint8)
    assert loaded.tobytes() == b"".join(raw[place : place + 16].tobytes() for place in (4, 100, 200, 300))
    assert constants.tolist() == [1, 2, 3, 4] * 4
    assert np.array_equal(shifted, (x[0].view(np.uint32) >> np.tile([0, 4, 8, 31], 4)).astype(np.uint32).view(np.int32))
    bytes_of = [row.view(np.uint8).reshape(4, 16)[:, 8:12] for row in x[:2]]
    assert np.array_equal(mins.view(np.int16), np.concatenate(bytes_of, axis=1).astype(np.int16).reshape(-1))
    assert np.array_equal(firsts[:4], x[0, ::4])
    assert np.array_equal(sums[:4], x[0].reshape(4, 4).sum(axis=1))
    assert np.array_equal(four[:4], x[:4].sum(axis=1))
    assert np.array_equal(eight, x.reshape(16, 8).sum(axis=1))


def test_selected_bytes() -> None:
    x = np.random.default_rng(2).integers(0, 256, 64).astype(np.uint8)
    x[0] = 0
    out = Region(np.zeros((8, 64)), np.uint8)
    kernels.selected_bytes(Region(x, np.uint8, 1).address, out.address)
    two, halves, left, sixteens, again, in_turn, bits, sixteen = out.values
    bytes_of_lanes = np.zeros((16, 4), np.uint8)
    bytes_of_lanes[:, 0] = np.repeat(x[22:24], 8)
    bytes_of_lanes[:, 2] = bytes_of_lanes[:, 0] if IN_SHORTS else 0
    assert np.array_equal(two, bytes_of_lanes.ravel())
    shorts = x.view(np.uint16)
    assert np.array_equal(halves.view(np.uint16), shorts >> np.repeat([0, 4], 16))
    expected = np.concatenate([shorts[:16].astype(np.uint32) << 4, shorts[16:] >> 2]).astype(np.uint16)
    assert np.array_equal(left.view(np.uint16), expected)
    assert np.array_equal(sixteens.view(np.uint16), shorts >> np.tile(np.repeat([0, 4], 8), 2))
    assert np.array_equal(again, np.tile(x[:32], 2))
    assert np.array_equal(in_turn, np.concatenate([x[:16], x[:16], x[16:32], x[16:32]]))
    assert np.array_equal(bits, np.unpackbits(x[4:12], bitorder="little") * 16)
    assert np.array_equal(sixteen[:16], x[16:32])


@pytest.mark.parametrize("n", [0, 1, 7, 15])
def test_floats(n: int) -> None:
    x = np.random.default_rng(3).standard_normal((2, LANES)).astype(np.float32)
    out = Region(np.zeros(4 * LANES + 8), np.float32)
    kernels.floats(Region(x, np.float32, 4).address, n, out.address)
    got = out.values
    assert same_bits(got[:16], np.where(np.arange(LANES) < n, x[0], x[1]))
    replaced = x[0].copy()
    replaced[n] = x[1, n]
    assert same_bits(got[16:32], replaced)
    assert same_bits(got[32:36], x.reshape(-1)[[0, 5, 16, 17]])
    assert same_bits(got[68:72], got[32:36])
    halves = x.reshape(-1).view(np.float16)[[0, 3, 32, 33]].astype(np.float32)
    assert np.array_equal(got[48:52], halves, equal_nan=True)
    total = x[0, 0]
    for value in x[0, 1:]:
        total = total + value
    assert got[64] == total
