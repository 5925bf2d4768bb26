"""Every tensor type that the kernels read, by ggml's name."""

from woolly_worker.kernels.formats import floats, iq4_xs, q2_k, q3_k, q4_0, q4_k, q5_k, q6_k, q8_0, tq1_0, tq2_0
from woolly_worker.kernels.formats.format import Format

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        *(floats.F32, floats.F16, floats.BF16),
        *(q8_0.FORMAT, q4_0.FORMAT),
        *(q2_k.FORMAT, q3_k.FORMAT, q4_k.FORMAT, q5_k.FORMAT, q6_k.FORMAT),
        *(iq4_xs.FORMAT, tq1_0.FORMAT, tq2_0.FORMAT),
    )
}
