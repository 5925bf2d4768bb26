"""What an operation is handed: its own argument record, and the record of the current step. Both are rows of int64.

An operation is called as `op(args, step, member, counter)` by every member of the thread team: `args` and `step` are
the addresses of the two records, `member` the caller's number, `counter` the address of the operation's own work
counter, zero at the start of every step. Members take units of work from it until none are left.
"""

from numba.core import types

from woolly_worker.kernels.jit import inline
from woolly_worker.kernels.simd import load_i32, load_i64
from woolly_worker.kernels.simd.lowering import Builder, Value, pointer, verb
from woolly_worker.kernels.simd.vectors import I64

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


@verb
def fetch_add(typing_context: object, address: object, n: object) -> object:
    """Add to a shared int64 and return what it was before."""

    def emit(context: object, b: Builder, sig: object, args: Value) -> Value:
        return b.atomic_rmw("add", pointer(b, args[0], I64), args[1], "seq_cst")

    return types.int64(types.intp, types.int64), emit


@inline
def field(record, index):
    """Field `index` of an argument or step record."""
    return load_i64(record + 8 * index)


@inline
def entry(array, index):
    """Element `index` of an i32 array, as an int64."""
    return types.int64(load_i32(array + 4 * index))
