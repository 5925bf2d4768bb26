"""A KV pool for the tests of rope and attention: filled and read position by position, by the layout's own rule.

The address of a byte is worked out here from the sentences in kernels/kv, one element at a time.
"""

import numpy as np
import numpy.typing as npt
from kernel_memory import Region

from woolly_worker.kernels.kv.quant_blocks import quantize_reference, turn_reference
from woolly_worker.memory.kv_cache import BLOCK_TOKENS, PANEL_TOKENS, KVLayout

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Pages:
    """One layer's blocks, `tables[slot, i]` being the block of positions 32 i .. 32 i + 31."""

    def __init__(self, layout: KVLayout, n_blocks: int, tables: npt.NDArray[np.int32], fill: int = 0) -> None:
        """`fill`: every byte, before anything is put there."""
        self.layout = layout
        self.tables = tables
        self.region = Region(np.full(n_blocks * layout.n_head_kv * layout.head_block_bytes, fill), np.uint8)
        self.table_region = Region(tables, np.int32)

    def _start(self, slot: int, position: int, head: int) -> int:
        block = int(self.tables[slot, position // BLOCK_TOKENS])
        return (block * self.layout.n_head_kv + head) * self.layout.head_block_bytes

    def put(self, slot: int, position: int, head: int, key: Floats, value: Floats) -> None:
        """A head_dim of floats each; the padding of a head becomes zero."""
        padded = [np.pad(x.astype(np.float32), (0, self.layout.head_dim - len(x))) for x in (key, value)]
        start, inside = self._start(slot, position, head), position % BLOCK_TOKENS
        for x, is_value in zip(padded, (False, True), strict=True):
            if self.layout.dtype in ("f16", "f32"):
                self._put_floats(start, inside, x, is_value)
            else:
                self._put_quants(start, inside, x, is_value)

    def _put_floats(self, start: int, inside: int, x: Floats, is_value: bool) -> None:
        n, d = self.layout.head_dim, np.arange(self.layout.head_dim)
        item = np.dtype(np.float16 if self.layout.dtype == "f16" else np.float32)
        if is_value:
            places = n * BLOCK_TOKENS + inside * n + d
        else:
            places = (inside // PANEL_TOKENS) * n * PANEL_TOKENS + d * PANEL_TOKENS + inside % PANEL_TOKENS
        memory = self.region.writable[start : start + self.layout.head_block_bytes].view(item)
        memory[places] = x.astype(item)

    def _put_quants(self, start: int, inside: int, x: Floats, is_value: bool) -> None:
        n_groups, d = self.layout.head_dim // 32, np.arange(32)
        per_group = 32 if self.layout.dtype == "q8_0" else 16
        panel, lane = inside // PANEL_TOKENS, inside % PANEL_TOKENS
        memory = self.region.writable[start : start + self.layout.head_block_bytes]
        scales_of_keys, values = 32 * n_groups * per_group, 32 * n_groups * (per_group + 2)
        scales_of_values = values + 32 * n_groups * per_group
        for g in range(n_groups):
            q, scale = quantize_reference(turn_reference(x[32 * g : 32 * g + 32]), self.layout.dtype)
            if self.layout.dtype == "q4_0":
                q, dims = q[:16] | q[16:] << 4, d[:16]
            else:
                dims = d
            if is_value:
                places = values + (32 * g + inside // 2 * 2) * per_group + dims * 2 + inside % 2
                scale_at = scales_of_values + 2 * (32 * g + inside)
            else:
                q = q ^ 0x80 if self.layout.dtype == "q8_0" else q
                group = panel * n_groups + g
                places = 16 * per_group * group + (dims // 4 * 16 + lane) * 4 + dims % 4
                scale_at = scales_of_keys + 2 * (16 * group + lane)
            memory[places] = q
            memory[scale_at : scale_at + 2] = scale.view(np.uint8)


def kept(x: npt.NDArray[np.floating], dtype: str) -> npt.NDArray[np.float64]:
    """What a type of keys and values makes of heads (..., head_dim), as exact numbers."""
    if dtype in ("f16", "f32"):
        return x.astype(np.float16 if dtype == "f16" else np.float32).astype(np.float64)
    width = x.shape[-1]
    padded = np.pad(x.astype(np.float32), [(0, 0)] * (x.ndim - 1) + [(0, -width % 32)])
    q, d = quantize_reference(turn_reference(padded.reshape(*x.shape[:-1], -1, 32)), dtype)
    integers = q.view(np.int8).astype(np.float64) - (8 if dtype == "q4_0" else 0)
    return (turn_reference(integers * d) / 32).reshape(padded.shape)[..., :width]
