"""A KV pool for the tests of rope and attention: filled and read position by position, by the layout's own rule.

The address of an element is worked out here from the sentence in `KVLayout`'s docstring, one element at a time.
"""

import numpy as np
import numpy.typing as npt
from kernel_memory import Region

from woolly_worker.memory.kv_cache import BLOCK_TOKENS, PANEL_TOKENS, KVLayout

Floats = npt.NDArray[np.float32]


class Pages:
    """One layer's blocks, `tables[slot, i]` being the block of positions 32 i .. 32 i + 31."""

    def __init__(self, layout: KVLayout, n_blocks: int, tables: npt.NDArray[np.int32], fill: float = 0.0) -> None:
        self.layout = layout
        self.tables = tables
        self.type = np.float16 if layout.dtype == "f16" else np.float32
        per_block = layout.n_head_kv * layout.head_block_bytes // layout.item_bytes
        self.region = Region(np.full(n_blocks * per_block, fill), self.type)
        self.table_region = Region(tables, np.int32)

    def places(self, slot: int, position: int, head: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Element numbers of the key's and of the value's dimensions."""
        layout = self.layout
        block, inside = self.tables[slot, position // BLOCK_TOKENS], position % BLOCK_TOKENS
        start = (int(block) * layout.n_head_kv + head) * layout.head_block_bytes // layout.item_bytes
        d = np.arange(layout.head_dim)
        key = start + (inside // PANEL_TOKENS) * layout.head_dim * PANEL_TOKENS + d * PANEL_TOKENS
        value = start + layout.head_dim * BLOCK_TOKENS + inside * layout.head_dim + d
        return key + inside % PANEL_TOKENS, value

    def put(self, slot: int, position: int, head: int, key: Floats, value: Floats) -> None:
        keys, values = self.places(slot, position, head)
        memory = self.region.writable
        memory[keys[: len(key)]], memory[values[: len(value)]] = key, value
        memory[keys[len(key) :]] = memory[values[len(value) :]] = 0  # the padding of a head

    def get(self, slot: int, position: int, head: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        keys, values = self.places(slot, position, head)
        memory = self.region.values
        return memory[keys], memory[values]
