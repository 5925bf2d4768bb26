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
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q6_k,
    q8_0,
)
from woolly_worker.kernels.formats.format import Format

_MODULES = (
    q8_0,
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q4_k,
    q6_k,
    iq3_s,
    iq3_xxs,
    iq2_s,
    iq2_xs,
    iq2_xxs,
    iq1_m,
    iq1_s,
)

FORMATS: dict[str, Format] = {
    format_.name: format_ for format_ in (floats.F32, floats.F16, floats.BF16, *(module.FORMAT for module in _MODULES))
}
