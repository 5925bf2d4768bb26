"""SwiGLU between the two halves of the feed-forward network: h = silu(gate) * up, then the forms `down` reads.

Source: Shazeer 2020, section 2. Accuracy: relative error below 1e-6 against silu_reference(gate) * up where gate > -87;
below, h is smaller than 1e-35 * up.
"""

from woolly_worker.kernels.exponential import silu
from woolly_worker.kernels.jit import inline, kernel, op
from woolly_worker.kernels.rmsnorm import quantize_row
from woolly_worker.kernels.simd import fetch_add, load_f32x16, mul, store
from woolly_worker.kernels.step import N_TOKENS, field

GATE = 0  # address of token 0's row, f32; overwritten with the result
UP = 1
STRIDE = 2  # of both
N = 3  # n_ff
OUT_Q8K = 4
OUT_Q8K_STRIDE = 5
OUT_Q8 = 6
OUT_Q8_STRIDE = 7
FORMS = 8
SWIGLU_FIELDS = 9


@inline
def _activate(gate, up, n):
    """gate := silu(gate) * up, rows of f32 padded to a multiple of 16."""
    for k in range(0, n, 16):
        store(gate + 4 * k, mul(silu(load_f32x16(gate + 4 * k)), load_f32x16(up + 4 * k)))


@kernel
def swiglu_row(gate, up, n):
    """_activate for Python."""
    _activate(gate, up, n)


@op
def swiglu(args, step, member, counter):
    """A unit of work is one token."""
    n_tokens, n, stride = field(step, N_TOKENS), field(args, N), field(args, STRIDE)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        row = field(args, GATE) + t * stride
        _activate(row, field(args, UP) + t * stride, n)
        quantize_row(args, OUT_Q8K, row, n, t, field(args, FORMS))


@op
def quantize(args, step, member, counter):
    """Only the forms: for rows that another operation has written. Same record; UP is not read."""
    n_tokens, n, stride = field(step, N_TOKENS), field(args, N), field(args, STRIDE)
    while True:
        t = fetch_add(counter, 1)
        if t >= n_tokens:
            return
        quantize_row(args, OUT_Q8K, field(args, GATE) + t * stride, n, t, field(args, FORMS))
