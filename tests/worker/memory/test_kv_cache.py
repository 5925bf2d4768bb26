"""KV blocks: layout and address, who holds what, and what the prefix cache may keep."""

import ctypes
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from woolly_worker.contract.errors import PoolExhausted
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, KVCache, KVLayout, KVType, blocks_for, padded_head_dim
from woolly_worker.memory.prefix_cache import ROOT, PrefixIndex

LAYOUT = KVLayout(n_layer=2, n_head_kv=3, head_dim=16, dtype="f16")


def ids_of(*blocks: int) -> list[int]:
    """Token ids of whole blocks; equal numbers give equal blocks."""
    return [block * 100 + i for block in blocks for i in range(BLOCK_TOKENS)]


def fill(kv: KVCache, *content: int) -> list[int]:
    """Blocks as a sequence that has computed this content would hold them."""
    match = kv.match_prefix([*ids_of(*content), 1])
    blocks, node = list(match.blocks), match.node
    blocks += kv.allocate(len(content) - len(blocks))
    for i in range(len(match.blocks), len(content)):
        blocks[i], node = kv.commit(blocks[i], node, tuple(ids_of(content[i])))
    return blocks


@pytest.mark.parametrize(("dtype", "padded"), [("f16", 80), ("f32", 80), ("q8_0", 96), ("q4_0", 96)])
def test_heads_are_padded_to_what_shares_a_vector_or_a_scale(dtype: KVType, padded: int) -> None:
    assert padded_head_dim(padded, dtype) == padded_head_dim(65, dtype) == padded


def test_sizes_of_the_layout() -> None:
    assert LAYOUT.head_block_bytes == 2 * 16 * 32 * 2
    assert LAYOUT.block_bytes == 2 * 3 * LAYOUT.head_block_bytes
    assert KVLayout(2, 3, 16, "f32").block_bytes == 2 * LAYOUT.block_bytes
    assert KVLayout(1, 1, 64, "q8_0").block_bytes == 2 * 32 * 2 * 34
    assert KVLayout(1, 1, 64, "q4_0").block_bytes == 2 * 32 * 2 * 18
    assert LAYOUT.blocks_in(10 * LAYOUT.block_bytes + 1) == 10
    assert [blocks_for(n) for n in (0, 1, 32, 33)] == [0, 1, 1, 2]


def test_the_memory_is_aligned_zeroed_and_writable_to_its_last_byte() -> None:
    kv = KVCache(LAYOUT, 5)
    assert kv.base % 64 == 0
    assert kv.n_bytes == 5 * LAYOUT.block_bytes
    memory = (ctypes.c_uint8 * kv.n_bytes).from_address(kv.base)
    assert not any(memory)
    memory[kv.n_bytes - 1] = 7
    with pytest.raises(ValueError, match="at least one block"):
        KVCache(LAYOUT, 0)


def test_allocate_is_all_or_nothing_and_names_the_numbers() -> None:
    kv = KVCache(LAYOUT, 4)
    blocks = kv.allocate(3)
    assert sorted(blocks) == [0, 1, 2]
    with pytest.raises(PoolExhausted, match="2 KV blocks wanted, 1 of 4 are free"):
        kv.allocate(2)
    assert (kv.n_free, kv.n_used) == (1, 3)
    kv.release(blocks)
    assert kv.n_free == 4
    with pytest.raises(ValueError, match="held by nobody"):
        kv.release(blocks[:1])


def test_a_prefix_is_found_in_whole_blocks_and_never_whole() -> None:
    kv = KVCache(LAYOUT, 8)
    held = fill(kv, 1, 2)
    assert kv.match_prefix(ids_of(1, 2)).blocks == held[:1]  # the last token is left to compute
    assert kv.match_prefix([*ids_of(1, 2), 5]).blocks == held
    assert kv.match_prefix([*ids_of(1), *ids_of(3)]).n_cached_tokens == 32
    assert kv.match_prefix([*ids_of(2), 5]).blocks == []  # the same ids at another place are something else
    assert kv.match_prefix(ids_of(1)[:31]).blocks == []
    kv.check_invariants()


def test_released_prefixes_stay_until_their_memory_is_needed_ends_first() -> None:
    kv = KVCache(LAYOUT, 4)
    kv.release(fill(kv, 1, 2, 3))
    assert (kv.n_free, kv.n_cached) == (4, 3)
    kv.release(kv.allocate(1))
    assert kv.n_cached == 3  # the free block came first
    kv.release(kv.allocate(2))
    assert kv.match_prefix([*ids_of(1, 2, 3), 5]).n_cached_tokens == 64
    assert kv.n_evictions == 1
    kv.check_invariants()


def test_the_least_recently_used_goes_first() -> None:
    kv = KVCache(LAYOUT, 4)
    for content in (1, 2, 3, 4):
        kv.release(fill(kv, content))
    kv.release(fill(kv, 1))  # used again
    kv.release(kv.allocate(1))
    found = [content for content in (1, 2, 3, 4) if kv.match_prefix([*ids_of(content), 5]).blocks]
    assert found == [1, 3, 4]


def test_two_who_compute_the_same_end_up_with_one_copy() -> None:
    kv = KVCache(LAYOUT, 4)
    first, second = kv.allocate(1), kv.allocate(1)
    ids = tuple(ids_of(1))
    block, node = kv.commit(first[0], ROOT, ids)
    again, same_node = kv.commit(second[0], ROOT, ids)
    assert (block, node) == (again, same_node)
    assert kv.n_used == 1
    kv.check_invariants()
    kv.release([block])
    kv.release([block])
    assert kv.n_used == 0
    kv.check_invariants()


def test_a_block_is_committed_full_or_not_at_all() -> None:
    kv = KVCache(LAYOUT, 4)
    with pytest.raises(ValueError, match="has 32 tokens, not 31"):
        kv.commit(kv.allocate(1)[0], ROOT, tuple(range(31)))


def test_clearing_forgets_what_nobody_holds() -> None:
    kv = KVCache(LAYOUT, 6)
    kv.release(fill(kv, 1, 2))
    held = fill(kv, 3)
    kv.clear_prefixes()
    assert kv.n_cached == 1
    kv.check_invariants()
    kv.release(held)


def test_the_index_takes_a_block_and_a_content_once() -> None:
    index = PrefixIndex()
    node = index.insert(ROOT, (1, 2), 7)
    assert index.find(ROOT, (1, 2)) == (7, node)
    with pytest.raises(ValueError, match="already"):
        index.insert(ROOT, (1, 2), 8)
    with pytest.raises(ValueError, match="already"):
        index.insert(node, (3, 4), 7)
    index.remove(7)
    assert index.find(ROOT, (1, 2)) is None
    assert index.insert(ROOT, (1, 2), 7) != node  # a number is never used twice


@pytest.mark.parametrize("damage", ["twice free", "free and held", "lost", "orphan", "shared but unknown"])
def test_broken_books_are_noticed(damage: str) -> None:
    kv = KVCache(LAYOUT, 6)
    held = fill(kv, 1, 2)
    other = kv.allocate(1)
    if damage == "twice free":
        kv._free.append(kv._free[0])
    elif damage == "free and held":
        kv._free.append(held[0])
    elif damage == "lost":
        kv._free.pop()
    elif damage == "orphan":
        kv._index.remove(held[0])
    else:
        kv._n_holders[other[0]] += 1
    with pytest.raises(AssertionError):
        kv.check_invariants()


class KVCacheMachine(RuleBasedStateMachine):
    """Any order of lease, growth, commit, release and eviction: no block is lost, none is owned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KVCache(LAYOUT, 9)
        self.holders: list[
            dict[str, Any]
        ] = []  # {"content": block numbers, "blocks": ..., "node": ..., "committed": n}
        self.content_of: dict[int, tuple[int, ...]] = {}  # what a committed block holds: its whole prefix

    @rule(content=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def start(self, content: list[int]) -> None:
        match = self.kv.match_prefix([*ids_of(*content), 5])
        for i, block in enumerate(match.blocks):
            assert self.content_of[block] == tuple(content[: i + 1])
        n_new = len(content) - len(match.blocks)
        if n_new > self.kv.n_free:
            with pytest.raises(PoolExhausted):
                self.kv.allocate(n_new)
            self.kv.release(match.blocks)
            return
        new = self.kv.allocate(n_new)
        owned = {block for holder in self.holders for block in holder["blocks"]}
        assert not owned & set(new)
        self.holders.append(
            {"content": content, "blocks": match.blocks + new, "node": match.node, "committed": len(match.blocks)}
        )

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def compute_a_block(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        i = holder["committed"]
        if i == len(holder["blocks"]):
            return
        ids = tuple(ids_of(holder["content"][i]))
        block, holder["node"] = self.kv.commit(holder["blocks"][i], holder["node"], ids)
        holder["blocks"][i] = block
        holder["committed"] += 1
        self.content_of[block] = tuple(holder["content"][: i + 1])

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.kv.release(holder["blocks"])

    @rule()
    def clear(self) -> None:
        self.kv.clear_prefixes()

    @invariant()
    def books_balance(self) -> None:
        self.kv.check_invariants()
        assert self.kv.n_free + self.kv.n_used == self.kv.n_blocks
        assert {block for holder in self.holders for block in holder["blocks"]} == {
            block for block, n in enumerate(self.kv._n_holders) if n
        }
        uncommitted = [block for holder in self.holders for block in holder["blocks"][holder["committed"] :]]
        assert len(uncommitted) == len(set(uncommitted))


KVCacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestKVCacheMachine = KVCacheMachine.TestCase
