"""What file this is, without reading all of it: a job must not go on with other weights than it began with.

It covers the size, everything before the tensors (metadata, vocabulary, names, types and shapes) and some bytes of
every tensor. Two trainings of the same model differ in each of those; a file that was edited by hand in a few places
between them is not told apart, which is why this is no checksum.
"""

import hashlib

from woolly_worker.gguf.reader import GGUFFile

SAMPLE_BYTES = 64
SAMPLES_PER_TENSOR = 4


def fingerprint(file: GGUFFile) -> str:
    """16 hexadecimal digits. Touches about four pages per tensor."""
    digest = hashlib.sha256(str(file.n_bytes).encode())
    first = min((info.offset for info in file.tensors.values()), default=file.n_bytes)
    digest.update(file.data[:first].tobytes())
    for name in file.tensors:
        data = file.tensor_bytes(name)
        last = max(0, data.size - SAMPLE_BYTES)
        for sample in range(SAMPLES_PER_TENSOR):
            at = last * sample // (SAMPLES_PER_TENSOR - 1)
            digest.update(data[at : at + SAMPLE_BYTES].tobytes())
    return digest.hexdigest()[:16]
