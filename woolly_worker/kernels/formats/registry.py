"""Every tensor type that the kernels read, by ggml's name."""

from woolly_worker.kernels.formats import (
    floats,
    iq1_m,
    iq1_s,
    iq2_s,
    iq2_xs,
    iq2_xxs,
    iq3_s,
    iq3_xxs,
    iq4_nl,
    iq4_xs,
    mxfp4,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
    tq1_0,
    tq2_0,
)
from woolly_worker.kernels.formats.format import Format

_QUANTISED = (
    *(q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl, mxfp4),  # 32 weights in a block
    *(q6_k, q5_k, q4_k, q3_k, q2_k, iq4_xs, tq2_0, tq1_0),  # 256, from here on
    *(iq3_s, iq3_xxs, iq2_s, iq2_xs, iq2_xxs, iq1_m, iq1_s),
)

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (floats.F32, floats.F16, floats.BF16, *(module.FORMAT for module in _QUANTISED))
}
