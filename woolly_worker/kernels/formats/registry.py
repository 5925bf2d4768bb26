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
    q4_k,
    q6_k,
    q8_0,
)
from woolly_worker.kernels.formats.format import Format

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        floats.F32,
        floats.F16,
        floats.BF16,
        q8_0.FORMAT,
        q4_0.FORMAT,
        q4_k.FORMAT,
        q6_k.FORMAT,
        iq3_s.FORMAT,
        iq3_xxs.FORMAT,
        iq2_s.FORMAT,
        iq2_xs.FORMAT,
        iq2_xxs.FORMAT,
        iq1_m.FORMAT,
        iq1_s.FORMAT,
    )
}
