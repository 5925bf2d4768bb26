"""StepBatch: what one forward step computes, as arrays that are taken once and filled in place.

The scheduler writes it, the transformer reads it. It decides nothing and checks nothing: a batch that breaks the rules
below is a bug of the scheduler, which tests hold to them.
"""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]


class StepBatch:
    """The tokens of one step. All arrays are C-contiguous int32; only the leading `n_tokens` (`n_logit_rows`) count.

    token_ids     (max_step_tokens,)                 the token at each row
    positions     (max_step_tokens,)                 its position in its sequence, from 0
    slots         (max_step_tokens,)                 its sequence's row of `block_tables`
    logit_rows    (max_logit_rows,)                  rows of this step whose logits are wanted, in the order wanted
    block_tables  (max_slots, max_blocks_per_slot)   [slot, position // BLOCK_TOKENS] is the KV block of a position

    The rows of one sequence are consecutive and ascend by one in position. Entries of `block_tables` behind a
    sequence's last position are stale and mean nothing.
    """

    __slots__ = ("block_tables", "logit_rows", "n_logit_rows", "n_tokens", "positions", "slots", "token_ids")

    def __init__(self, *, max_step_tokens: int, max_logit_rows: int, max_slots: int, max_blocks_per_slot: int) -> None:
        self.n_tokens = 0
        self.n_logit_rows = 0
        self.token_ids: IntArray = np.zeros(max_step_tokens, dtype=np.int32)
        self.positions: IntArray = np.zeros(max_step_tokens, dtype=np.int32)
        self.slots: IntArray = np.zeros(max_step_tokens, dtype=np.int32)
        self.logit_rows: IntArray = np.zeros(max_logit_rows, dtype=np.int32)
        self.block_tables: IntArray = np.zeros((max_slots, max_blocks_per_slot), dtype=np.int32)

    def clear(self) -> None:
        self.n_tokens = 0
        self.n_logit_rows = 0
