"""What an operation is handed: its own argument record, and the record of the current step. Both are rows of int64.

An operation is called as `op(args, step, member, counter)` by every member of the thread team: `args` and `step` are
the addresses of the two records, `member` the caller's number, `counter` the address of the operation's own work
counter, zero at the start of every step. Members take units of work from it until none are left.
"""

import numpy as np

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import load_i32, load_i64

# Fields of the step record, in units of eight bytes.
N_TOKENS = 0  # tokens in this step
N_LOGIT_ROWS = 1  # tokens whose logits are wanted
TOKEN_IDS = 2  # address of i32[n_tokens]
POSITIONS = 3  # address of i32[n_tokens]
SLOTS = 4  # address of i32[n_tokens]: rows of the block tables
LOGIT_ROWS = 5  # address of i32[n_logit_rows]: indices of tokens
BLOCK_TABLES = 6  # address of i32[n_slots, blocks_per_slot]
BLOCKS_PER_SLOT = 7
STEP_FIELDS = 8


@inline
def field(record, index):
    """Field `index` of an argument or step record."""
    return load_i64(record + 8 * index)


@inline
def entry(array, index):
    """Element `index` of an i32 array, as an int64."""
    return np.int64(load_i32(array + 4 * index))
