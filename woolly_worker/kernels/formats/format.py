"""What the forward pass needs to know about a tensor type."""

from collections.abc import Callable
from dataclasses import dataclass

from woolly_worker.kernels.activations import Activation, row_bytes
from woolly_worker.kernels.formats.fours import terms_bytes
from woolly_worker.kernels.jit import LazyOp
from woolly_worker.kernels.matmul import sums_bytes
from woolly_worker.kernels.matrix_unit_parts import matrix_scratch_bytes


@dataclass(frozen=True, slots=True)
class Format:
    """A tensor type's kernels."""

    name: str  # ggml's spelling
    block: int  # weights in a quant block
    block_bytes: int
    activation: Activation  # the form of activations that its matmul reads
    matmul: LazyOp
    embed: LazyOp
    dequantize: Callable[[int, int, int], None]  # (row address, n_cols, f32 out address), for Python
    row_dot: Callable[[int, int, int], float]  # (row address, activations, n_cols) -> f32, for Python
    panel_block_bytes: int = 0  # bytes a quant block of sixteen rows takes in a panel; 0: the format needs none
    parts: int = 0  # partial sums of a row, see matmul.py
    tile_bytes: int = 0  # scratch for the sums of a tile, where they do not stay in registers

    on_matrix_unit: bool = False  # whether two tokens or more pass through the CPU's

    def scratch_bytes(self, n_cols: int, n_tokens: int) -> int:
        """Scratch that one member of the team needs: rows of n_cols weights times so many tokens."""
        one_token = terms_bytes(n_cols) if self.activation == Activation.Q8K else 0  # those go by fours
        if self.on_matrix_unit:
            several = matrix_scratch_bytes(row_bytes(self.activation, n_cols), n_tokens)
        else:
            several = self.tile_bytes + sums_bytes(self.parts) + n_cols // self.block * self.panel_block_bytes
        return max(one_token, several)
