"""Every tensor type that the kernels read, by ggml's name."""

from woolly_worker.kernels.formats import floats, q4_0, q4_1, q4_k, q5_0, q5_1, q6_k, q8_0
from woolly_worker.kernels.formats.format import Format

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        floats.F32,
        floats.F16,
        floats.BF16,
        q8_0.FORMAT,
        q4_0.FORMAT,
        q4_1.FORMAT,
        q5_0.FORMAT,
        q5_1.FORMAT,
        q4_k.FORMAT,
        q6_k.FORMAT,
    )
}
