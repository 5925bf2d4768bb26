"""Loads and stores: any address will do, and no byte outside is touched."""

import numpy as np
import pytest
import verb_kernels as kernels
from guarded import ReadOnly
from kernel_memory import Region, same_bits


@pytest.mark.parametrize("n", range(18))
@pytest.mark.parametrize("offset", [0, 1, 60])
def test_partial_loads_and_stores(n: int, offset: int) -> None:
    lanes = min(n, 16)
    numbers = np.arange(1, 17)
    first = np.where(numbers <= n, numbers, 0)
    # Given vectors that end where the pattern around them begins.
    x, x16 = Region(numbers[:lanes], np.float32, offset), Region(numbers[:lanes], np.int16, offset)
    out, out16 = Region(np.ones(16), np.float32, offset), Region(np.ones(16), np.int16, offset)
    # When the first n lanes are loaded, then the others are zero.
    kernels.partial_copy(x.address, x16.address, n, out.address, out16.address)
    assert same_bits(out.values, first.astype(np.float32))
    assert same_bits(out16.values, first.astype(np.int16))

    # And a partial store leaves everything behind the lanes alone.
    whole, place = Region(numbers, np.float32, offset), Region(np.zeros(lanes), np.float32, offset)
    kernels.partial_store(whole.address, n, place.address)
    assert same_bits(place.values, numbers[:lanes].astype(np.float32))


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_scalar_loads_and_stores(offset: int) -> None:
    x = np.array([-2, 0x00, 0x80, 0x3F, 0x41, 0x42, 0x43, 0x44], np.int64).astype(np.uint8)
    out = Region(np.zeros(32), np.uint8, offset)
    kernels.scalar_copies(Region(x, np.uint8, offset).address, out.address)
    got = out.values
    assert np.array_equal(got[:8], x)
    assert got[8:24].view(np.int32).tolist() == [int(x.view(np.int32)[0]), 0xFE, -2, 0xFE]
    assert got[24:28].view(np.float32)[0] == x.view(np.float32)[0]
    assert np.array_equal(got[28:31], [0xFE, 0x00, 0xFE])


def test_memory_at_the_end_of_a_read_only_mapping() -> None:
    """Sixteen lanes and fewer, up to the last byte before memory that must not be touched."""
    for n in (1, 7, 16):
        floats, shorts = np.arange(1, n + 1, dtype=np.float32), np.arange(1, n + 1, dtype=np.int16)
        with ReadOnly(floats.tobytes()) as x, ReadOnly(shorts.tobytes()) as x16:
            out, out16 = Region(np.ones(16), np.float32), Region(np.ones(16), np.int16)
            kernels.partial_copy(x.address, x16.address, n, out.address, out16.address)
        assert np.array_equal(out.values[:n], floats)
        assert np.array_equal(out16.values[:n], shorts)


def test_bytes_are_stored_apart() -> None:
    """And nothing between them is written."""
    x = np.arange(1, 17, dtype=np.uint8)
    words, items = Region(np.full(32, 99), np.uint8, 1), Region(np.full(31, 99), np.uint8)
    kernels.spread_out(Region(x, np.uint8, 3).address, words.address, items.address)
    expected = np.full((4, 8), 99, np.uint8)
    expected[:, :4] = x.reshape(4, 4)
    assert np.array_equal(words.values, expected.ravel())
    assert np.array_equal(items.values[::2], x)
    assert (items.values[1::2] == 99).all()


def test_a_prefetch_never_faults() -> None:
    for address in (0, 1, 0xDEAD0000, 2**47 - 1, -(2**62)):
        assert kernels.prefetched(address) == 1
