"""Attention over KV blocks against its definition, and each query's independence of its company."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from kernel_memory import Region, record, run_op, same_bits
from kv_pages import Pages, kept

from woolly_worker.kernels import attention
from woolly_worker.kernels.attention import (
    PIECE_TOKENS,
    SPLIT_TOKENS,
    attention_reference,
    pieces_bytes,
    scratch_bytes,
)
from woolly_worker.kernels.kv.quant_blocks import turn_reference
from woolly_worker.kernels.quantize import quantize_reference
from woolly_worker.kernels.step import BLOCK_TABLES, BLOCKS_PER_SLOT, N_TOKENS, POSITIONS, SLOTS
from woolly_worker.memory.kv_cache import KV_TYPES, KVLayout, KVType, padded_head_dim

Floats = npt.NDArray[np.float32]
Place = tuple[int, int]  # slot, position


class Scene:
    """Two sequences of `n` positions with their keys and values filed; every query that could be asked."""

    def __init__(
        self,
        dtype: KVType,
        head_dim: int,
        n_head: int,
        n_head_kv: int,
        n: int = 100,
        *,
        spread: float = 1.0,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.head_dim, self.n_head, self.n_head_kv = head_dim, n_head, n_head_kv
        self.padded = padded_head_dim(head_dim, dtype)
        self.layout = KVLayout(1, n_head_kv, self.padded, dtype)
        per_slot = -(-n // 32)
        tables = rng.permutation(2 * per_slot + 1).astype(np.int32)[: 2 * per_slot].reshape(2, per_slot)
        # What an earlier sequence left in the blocks is NaN, and must not count.
        self.pages = Pages(self.layout, 2 * per_slot + 1, tables, fill=0xFF)
        keys, values = rng.standard_normal((2, 2, n, n_head_kv, head_dim)).astype(np.float32)
        self.keys, self.values = kept(np.float32(spread) * keys, dtype), kept(values, dtype)
        self.q = rng.standard_normal((2, n, n_head, head_dim)).astype(np.float32)
        for slot in range(2):
            for position in range(n):
                for head in range(n_head_kv):
                    key, value = keys[slot, position, head], values[slot, position, head]
                    self.pages.put(slot, position, head, np.float32(spread) * key, value)

    def run(self, places: Sequence[Place], n_members: int = 1) -> Floats:
        """Queries of these places as one step; (n_tokens, n_head, head_dim)."""
        n_tokens, width = len(places), self.n_head * self.head_dim
        q = np.stack([self.q[slot, position] for slot, position in places]).reshape(n_tokens, width)
        stride = -(-width // 16) * 64
        rows = np.full((n_tokens + 1, stride // 4), np.nan, np.float32)  # lanes behind a row must not count either
        rows[:n_tokens, :width] = q
        out = Region(np.full((n_tokens, stride // 4), 7.0), np.float32)
        scratch = Region(np.full((n_members, scratch_bytes(self.padded)), 0xFF), np.uint8)
        max_pieces = -(-self.keys.shape[1] // PIECE_TOKENS)
        pieces = Region(np.full(pieces_bytes(self.n_head, self.padded, max_pieces), 0xFF), np.uint8)
        finished = Region(np.zeros(SPLIT_TOKENS * self.n_head), np.int64)
        args = record(
            attention.ATTENTION_FIELDS,
            {
                attention.Q: Region(rows, np.float32).address,
                attention.Q_STRIDE: stride,
                attention.OUT: out.address,
                attention.OUT_STRIDE: stride,
                attention.N_HEAD: self.n_head,
                attention.N_HEAD_KV: self.n_head_kv,
                attention.HEAD_DIM: self.head_dim,
                attention.PADDED_DIM: self.padded,
                attention.KV_BASE: self.pages.region.address,
                attention.HEAD_BLOCK_BYTES: self.layout.head_block_bytes,
                attention.SCALE: Region([1 / np.sqrt(self.head_dim)], np.float32).address,
                attention.SCRATCH: scratch.address,
                attention.SCRATCH_STRIDE: scratch_bytes(self.padded),
                attention.PIECES: pieces.address,
                attention.MAX_PIECES: max_pieces,
                attention.FINISHED: finished.address,
                attention.N_MEMBERS: n_members,
            },
        )
        step = {
            N_TOKENS: n_tokens,
            POSITIONS: Region([position for _, position in places], np.int32).address,
            SLOTS: Region([slot for slot, _ in places], np.int32).address,
            BLOCK_TABLES: self.pages.table_region.address,
            BLOCKS_PER_SLOT: self.pages.tables.shape[1],
        }
        run_op(getattr(attention, f"attention_{self.layout.dtype}"), args, step, n_members)
        assert scratch.values is not None  # fails if scratch was overrun
        assert pieces.values is not None
        assert not finished.values.any()  # ready for the next step
        got = out.values
        assert (got[:, width:] == 7.0).all()  # nothing behind a row is written
        return got[:, :width].reshape(n_tokens, self.n_head, self.head_dim)

    def asked(self, place: Place, head: int) -> npt.NDArray[np.float64]:
        """The query that is multiplied: quantised keys meet one of 8 bits."""
        slot, position = place
        q = self.q[slot, position, head]
        if self.layout.dtype in ("f16", "f32"):
            return q.astype(np.float64)
        scale = np.float32(1 / np.sqrt(self.head_dim))
        turned = turn_reference(np.pad(q * scale, (0, self.padded - self.head_dim)).reshape(-1, 32)) / np.float32(32)
        rounded, d = quantize_reference(turned, 32)
        return turn_reference(rounded * d[:, None].astype(np.float64)).ravel()[: self.head_dim] * np.sqrt(self.head_dim)

    def exact(self, place: Place, head: int) -> npt.NDArray[np.float64]:
        slot, position = place
        shared = head // (self.n_head // self.n_head_kv)
        keys, values = (x[slot, : position + 1, shared] for x in (self.keys, self.values))
        return attention_reference(self.asked(place, head), keys, values)

    def tolerance(self, place: Place) -> float:
        """An error e in a score changes its weight by the factor exp(e), so the result by 2 e |v| at most.

        A score is a sum of head_dim products of the scaled query: off by (head_dim + 2) units of 2**-24 of the sum of
        the products' magnitudes. exp adds 2e-7 each for a weight and for the shrinking of its round's sum (at most
        one for each round, and one for each piece), the sums of weights and of values one unit for each position.
        Quantised keys and values are turned: norms stay, but a group of 32 numbers has up to sqrt(32) times the sum of
        magnitudes. Their weights are rounded to 1/65534 of the largest.
        """
        slot, position = place
        magnitude = np.abs(self.q[slot, position]).sum(axis=1).max() * np.abs(self.keys[slot]).max()
        score = (self.head_dim + 2) * 2.0**-24 * magnitude / np.sqrt(self.head_dim)
        rest = (position // 100 + 2) * 2e-7 + 2 * (position + 2) * 2.0**-24
        if self.layout.dtype not in ("f16", "f32"):
            score, rest = 6 * score, 6 * (rest + (position + 1) / 65534)
        return float((2 * score + rest) * np.abs(self.values[slot]).max())

    def assert_right(self, places: Sequence[Place], got: Floats) -> None:
        for place, row in zip(places, got, strict=True):
            for head in range(self.n_head):
                error = np.abs(row[head] - self.exact(place, head)).max()
                assert error <= self.tolerance(place), (place, head, error, self.tolerance(place))


@pytest.mark.parametrize("dtype", KV_TYPES)
@pytest.mark.parametrize("head_dim", [8, 64, 80, 128])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 8, 12])
def test_against_the_definition(dtype: KVType, head_dim: int, group: int) -> None:
    """Every position from 1 to 100: a whole prompt in one step, then the same queries one by one, equal in bits."""
    scene = Scene(dtype, head_dim, 2 * group if head_dim < 80 else group, 2 if head_dim < 80 else 1)
    chunk = [(0, position) for position in range(100)]
    got = scene.run(chunk, n_members=2)
    sample = chunk[:3] + chunk[14:18] + chunk[30:34] + chunk[63:66] + chunk[95:]
    scene.assert_right(sample, got[[position for _, position in sample]])
    for place in sample:
        assert same_bits(scene.run([place])[0], got[place[1]]), place


@pytest.mark.parametrize("dtype", KV_TYPES)
def test_every_context_length_alone(dtype: KVType) -> None:
    scene = Scene(dtype, 16, 2, 1)
    for position in range(100):
        scene.assert_right([(1, position)], scene.run([(1, position)]))


@pytest.mark.parametrize("dtype", KV_TYPES)
@pytest.mark.parametrize("group", [1, 2, 4, 12])
@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 32, 33])
def test_chunks_and_company_change_no_bit(dtype: KVType, group: int, chunk: int) -> None:
    scene = Scene(dtype, 24, group, 1, n=70)
    whole = {(slot, p): row for slot in range(2) for p, row in enumerate(scene.run([(slot, p) for p in range(70)]))}
    for start in range(0, 70, chunk):
        # One sequence's chunk, decode tokens of the other before and behind it.
        places = [(1, 69), *[(0, p) for p in range(start, min(start + chunk, 70))], (1, 3), (1, 40)]
        for place, row in zip(places, scene.run(places, n_members=2), strict=True):
            assert same_bits(row, whole[place]), place


def test_neighbours_in_position_but_not_in_sequence_share_nothing() -> None:
    """The token behind (0, 9) is (1, 10), which would fit if one looked at positions alone."""
    scene = Scene("f32", 16, 1, 1, n=40)
    places = [(0, 9), (1, 10), (0, 11), (0, 12), (1, 13), (1, 13), (1, 12)]
    got = scene.run(places)
    scene.assert_right(places, got)
    for place, row in zip(places, got, strict=True):
        assert same_bits(scene.run([place])[0], row)


@pytest.mark.parametrize("spread", [1e-3, 30.0])
def test_flat_and_peaked_scores(spread: float) -> None:
    """With wide scores a new largest one comes up often, and earlier sums shrink to nothing."""
    scene = Scene("f32", 64, 4, 2, spread=spread, seed=5)
    places = [(0, p) for p in range(100)]
    scene.assert_right(places, scene.run(places))


def test_the_first_token_sees_itself_alone() -> None:
    scene = Scene("f32", 80, 1, 1, n=3)
    np.testing.assert_allclose(scene.run([(0, 0)])[0, 0], scene.values[0, 0, 0], rtol=2.0**-23)


def test_equal_keys_give_the_mean_of_values() -> None:
    scene = Scene("f32", 16, 1, 1, n=100)
    for position in range(100):
        key, value = scene.keys[0, 0, 0], scene.values[0, position, 0]
        scene.pages.put(0, position, 0, key.astype(np.float32), value.astype(np.float32))
    got = scene.run([(0, 99)])[0, 0]
    np.testing.assert_allclose(got, scene.values[0, :, 0].astype(np.float64).mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", KV_TYPES)
@pytest.mark.parametrize("group", [1, 3, 8])
def test_long_contexts_fall_into_pieces(dtype: KVType, group: int) -> None:
    """Around the borders of rounds and pieces: alone, in few tokens (split) and in many (not split), the same bits."""
    scene = Scene(dtype, 32, group, 1, n=1100, seed=3)
    borders = [126, 127, 128, 510, 511, 512, 513, 1023, 1024, 1099]
    chunk = [(0, p) for p in range(505, 520)] + [(0, p) for p in range(1018, 1030)]
    whole = dict(zip(chunk, scene.run(chunk, n_members=2), strict=True))
    for places in ([(0, p) for p in borders[:8]], [(0, 511), (0, 512), (1, 1099), (1, 3)], [(0, 1024)], chunk[3:9]):
        got = scene.run(places, n_members=2)
        scene.assert_right(places, got)
        for place, row in zip(places, got, strict=True):
            assert same_bits(row, scene.run([place])[0]), place
            assert place not in whole or same_bits(row, whole[place]), place


@pytest.mark.parametrize("dtype", KV_TYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("group", [1, 4])
def test_a_later_token_cannot_poison_earlier_ones(dtype: KVType, value: float, group: int) -> None:
    """What a token's key and value hold, its chunk's earlier tokens never see."""
    scene = Scene(dtype, 32, group, 1, n=40)
    places = [(0, p) for p in range(28, 40)]
    before = scene.run(places)
    for later in range(34, 40):
        bad = np.full(32, value, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            scene.pages.put(0, later, 0, bad, bad)
    after = scene.run(places)
    assert np.isfinite(before).all()
    for place, row, expected in zip(places, after, before, strict=True):
        assert place[1] >= 34 or same_bits(row, expected), place
