"""Where fuzzing starts: small files that are good, and from which damage is a step away."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tiny_gguf
from gguf import GGMLQuantizationType as Type

from woolly_worker.gguf.reader import GGUFFile

HOSTILE_TEMPLATE = "{% for x in range(10 ** 9) %}{{ messages }}{% endfor %}"
# Sizes and counts that have broken readers of this format: at the edges of 32 and 64 bits, and far beyond any file.
NUMBERS = (0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1)


def files(folder: Path) -> Iterator[Path]:
    """One per kind of vocabulary, of tensor and of optional part."""
    yield tiny_gguf.write(folder / "spm.gguf")
    yield tiny_gguf.write(folder / "bpe.gguf", vocab="bpe", kind=Type.F32)
    yield tiny_gguf.write(folder / "llama3.gguf", vocab="bpe", pre="llama-bpe", tied=True)
    yield tiny_gguf.write(folder / "no-chat.gguf", chat_template=None, alignment=64)
    yield tiny_gguf.write(folder / "hostile-chat.gguf", chat_template=HOSTILE_TEMPLATE)
    yield tiny_gguf.write(
        folder / "yarn.gguf",
        keys={
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": np.float32(4.0),
            "llama.rope.scaling.original_context_length": np.uint32(32),
        },
    )


def head(path: Path) -> bytes:
    """Everything of a file before its first tensor's data."""
    with GGUFFile(path) as file:
        return path.read_bytes()[: min(tensor.offset for tensor in file.tensors.values())]


def mutations(whole: bytes, seed: int, n: int) -> Iterator[bytes]:
    """`n` damaged copies, the same for the same seed: bytes flipped, fields of 4 and 8 bytes replaced, parts cut out,
    doubled and moved."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            _damage(data, rng)
        yield bytes(data)


def _damage(data: bytearray, rng: np.random.Generator) -> None:
    last = max(1, len(data) - 16)
    at, kind = int(rng.integers(0, last)), int(rng.integers(0, 6))
    length = int(rng.integers(1, 64))
    if kind == 0:
        data[at] = int(rng.integers(0, 256))
    elif kind == 1:
        data[at : at + 8] = struct.pack("<Q", NUMBERS[int(rng.integers(0, len(NUMBERS)))])
    elif kind == 2:
        data[at : at + 4] = struct.pack("<I", NUMBERS[int(rng.integers(0, len(NUMBERS)))] & 0xFFFFFFFF)
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = data[at : at + length]
    else:
        other = int(rng.integers(0, last))
        data[at : at + length] = data[other : other + length]
