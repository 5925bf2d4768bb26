"""KVCache: one pool of KV blocks in memory, who holds each of them, and which of them are worth keeping.

The memory is written and read by kernels through its address. Here blocks are only counted: it refuses to hand out a
block that somebody holds, and it knows nothing of sequences, models or time.

A block is in exactly one of three states:

    free        nobody holds it, its content is of no use
    held        one or more sequences hold it; with more than one it is full, in the prefix index, and only read
    evictable   nobody holds it, but the prefix index knows its content: kept until its memory is needed

Evictable blocks go in the order in which their last holder let go of them, the end of a sequence before its
beginning. A sequence that holds a block holds all blocks before it, so the next block to go never has a child left.
"""

import mmap
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from woolly_worker.contract.errors import PoolExhausted
from woolly_worker.memory.prefix_cache import ROOT, PrefixIndex

BLOCK_TOKENS = 32
PANEL_TOKENS = 16  # keys are stored transposed, 16 positions side by side: a vector of 16 lanes

KVType = Literal["f16", "f32", "q8_0", "q4_0"]
KV_TYPES: tuple[KVType, ...] = get_args(KVType)


@dataclass(frozen=True, slots=True)
class _Values:
    """A type of keys and values: `n` dimensions of one position take `n_bytes`, scale and all."""

    n: int
    n_bytes: int


_VALUES = {"f16": _Values(16, 32), "f32": _Values(16, 64), "q8_0": _Values(32, 34), "q4_0": _Values(32, 18)}


def padded_head_dim(head_dim: int, dtype: KVType) -> int:
    """Heads are padded to whole vectors, or to whole groups that share a scale."""
    n = _VALUES[dtype].n
    return -(-head_dim // n) * n


def blocks_for(n_tokens: int) -> int:
    """KV blocks that hold `n_tokens` positions."""
    return -(-n_tokens // BLOCK_TOKENS)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Where a key or value lies. Block b of layer l and KV head h starts at

        base + ((l * n_blocks + b) * n_head_kv + h) * head_block_bytes

    and holds the keys of its 32 positions, in two panels of 16, then their values: kernels/kv says how. `head_dim` is
    padded already, see `padded_head_dim`.
    """

    n_layer: int
    n_head_kv: int
    head_dim: int
    dtype: KVType = "f16"

    @property
    def head_block_bytes(self) -> int:
        values = _VALUES[self.dtype]
        return 2 * BLOCK_TOKENS * self.head_dim // values.n * values.n_bytes

    @property
    def block_bytes(self) -> int:
        """One block: all layers, all KV heads."""
        return self.n_layer * self.n_head_kv * self.head_block_bytes

    def blocks_in(self, n_bytes: int) -> int:
        """Blocks that fit into `n_bytes`."""
        return n_bytes // self.block_bytes


class PrefixMatch(NamedTuple):
    """Blocks that already hold the beginning of a prompt; the caller holds them and must release them."""

    blocks: list[int]
    node: int  # of the last one: the parent of the block that follows

    @property
    def n_cached_tokens(self) -> int:
        return len(self.blocks) * BLOCK_TOKENS


class KVCache:
    """`n_blocks` KV blocks. The mapping is zeroed and backed by memory only where it is touched.

    Not thread-safe: the engine's thread owns it. `base` is the address of the first byte, 64-byte aligned (a page).
    """

    def __init__(self, layout: KVLayout, n_blocks: int) -> None:
        if n_blocks < 1:
            raise ValueError(f"a KV cache has at least one block, not {n_blocks}")
        self.layout = layout
        self.n_blocks = n_blocks
        self.n_bytes = n_blocks * layout.block_bytes
        # Private, so that the system counts it as this process's own memory rather than as shared.
        mapping = mmap.mmap(-1, self.n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory = np.frombuffer(mapping, dtype=np.uint8)
        self.base: int = self._memory.ctypes.data

        self.n_evictions = 0
        self._n_holders = [0] * n_blocks
        self._free = list(range(n_blocks - 1, -1, -1))  # a stack, lowest block on top: low pages are touched first
        self._evictable: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._index = PrefixIndex()

    @property
    def n_free(self) -> int:
        """Blocks that `allocate` can hand out: free and evictable ones."""
        return len(self._free) + len(self._evictable)

    @property
    def n_cached(self) -> int:
        """Blocks whose content the prefix index knows, held or not."""
        return len(self._index)

    @property
    def n_used(self) -> int:
        """Blocks held by somebody."""
        return self.n_blocks - self.n_free

    def allocate(self, n: int) -> list[int]:
        """`n` blocks, held once, content undefined. All or nothing: PoolExhausted."""
        if n > self.n_free:
            raise PoolExhausted(f"{n} KV blocks wanted, {self.n_free} of {self.n_blocks} are free")
        blocks = []
        for _ in range(n):
            block = self._free.pop() if self._free else self._evict()
            self._n_holders[block] = 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, given in the order of their positions."""
        for block in reversed(blocks):
            if self._n_holders[block] == 0:
                raise ValueError(f"KV block {block} is held by nobody")
            self._n_holders[block] -= 1
            if self._n_holders[block] == 0:
                if block in self._index:
                    self._evictable[block] = None
                else:
                    self._free.append(block)

    def match_prefix(self, ids: Sequence[int]) -> PrefixMatch:
        """The longest known run of full blocks at the beginning of `ids`, now held by the caller.

        Never all of `ids`: at least one token is left to compute, for its logits are wanted.
        """
        blocks: list[int] = []
        node = ROOT
        for end in range(BLOCK_TOKENS, len(ids), BLOCK_TOKENS):
            found = self._index.find(node, tuple(ids[end - BLOCK_TOKENS : end]))
            if found is None:
                break
            block, node = found
            if self._n_holders[block] == 0:
                del self._evictable[block]
            self._n_holders[block] += 1
            blocks.append(block)
        return PrefixMatch(blocks, node)

    def commit(self, block: int, parent: int, ids: tuple[int, ...]) -> tuple[int, int]:
        """Make a held, completely computed block findable: `ids` are its tokens, `parent` the node before it.

        Returns (block, node). If another block holds the same tokens behind the same parent, that one is returned,
        held by the caller, and the caller's own is released: the same request gives the same bits, so one copy is
        enough.
        """
        if len(ids) != BLOCK_TOKENS:
            raise ValueError(f"a full KV block has {BLOCK_TOKENS} tokens, not {len(ids)}")
        found = self._index.find(parent, ids)
        if found is None:
            return block, self._index.insert(parent, ids, block)
        known, node = found
        if known != block:
            if self._n_holders[known] == 0:
                del self._evictable[known]
            self._n_holders[known] += 1
            self.release((block,))
        return known, node

    def clear_prefixes(self) -> None:
        """Forget every block that nobody holds."""
        while self._evictable:
            self._free.append(self._evict())

    def check_invariants(self) -> None:
        """Raise AssertionError if the books do not balance. For tests and for idle moments."""
        held = {block for block, n in enumerate(self._n_holders) if n > 0}
        free, evictable = set(self._free), set(self._evictable)
        indexed = {block: (parent, node) for parent, node, block in self._index.items()}
        nodes = {node for _, node in indexed.values()}
        problems = {
            "a block has a negative number of holders": min(self._n_holders) < 0,
            "a block is twice in the free list": len(free) != len(self._free),
            "a block is in two states": bool(held & free or held & evictable or free & evictable),
            "a block is in no state": len(held) + len(free) + len(evictable) != self.n_blocks,
            "a free block is in the prefix index": bool(free & indexed.keys()),
            "an evictable block is not in the prefix index": not evictable <= indexed.keys(),
            "a shared block is not in the prefix index": any(
                n > 1 and block not in indexed for block, n in enumerate(self._n_holders)
            ),
            "a cached block has lost its parent": any(
                parent != ROOT and parent not in nodes for parent, _ in indexed.values()
            ),
        }
        broken = [name for name, is_broken in problems.items() if is_broken]
        if broken:
            raise AssertionError("KV cache: " + "; ".join(broken))

    def _evict(self) -> int:
        block, _ = self._evictable.popitem(last=False)
        self._index.remove(block)
        self.n_evictions += 1
        return block
