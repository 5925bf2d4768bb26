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


# Most damage to bytes ends at a length that does not fit. These keep the file whole and change what it says.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def changed_values(whole: bytes, seed: int, n: int) -> Iterator[bytes]:
    """`n` copies with other values in the metadata: numbers at their edges, texts and arrays that are longer or
    shorter, templates that want too much, pairs left out."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield with_changed_values(whole, rng)


def with_changed_values(whole: bytes, rng: np.random.Generator) -> bytes:
    """Raises ValueError, struct.error, LookupError or OverflowError for a file that is damaged already."""
    pairs, end = _pairs(whole)
    for _ in range(int(rng.integers(1, 4))):
        index = int(rng.integers(0, len(pairs)))
        key, kind, value = pairs[index]
        if rng.integers(0, 12) == 0:
            del pairs[index]
        else:
            pairs[index] = (key, *_changed(kind, value, rng))
    head = whole[:16] + struct.pack("<Q", len(pairs))
    body = b"".join(_text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    return _padded(head + body + _without_padding(whole[end:]))


def _pairs(whole: bytes) -> tuple[list[tuple[bytes, int, bytes]], int]:
    (n,) = struct.unpack_from("<Q", whole, 16)
    at, pairs = 24, []
    for _ in range(min(n, 1000)):
        key, at = _read_text(whole, at)
        (kind,) = struct.unpack_from("<I", whole, at)
        start, at = at + 4, _end_of(whole, at + 4, kind)
        pairs.append((key, kind, whole[start:at]))
    return pairs, at


def _read_text(whole: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", whole, at)
    if at + 8 + length > len(whole):
        raise ValueError("a text that is longer than the file")
    return whole[at + 8 : at + 8 + length], at + 8 + length


def _end_of(whole: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _read_text(whole, at)[1]
    if kind != _ARRAY:
        return at + _SIZES[kind]
    element, length = struct.unpack_from("<IQ", whole, at)
    at += 12
    if element != _STRING:
        return int(at + length * _SIZES[element])
    for _ in range(min(length, 100_000)):
        at = _read_text(whole, at)[1]
    return at


def _changed(kind: int, value: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
    if kind == _STRING:
        return kind, _text(_changed_text(value[8:], rng))
    if kind != _ARRAY:
        number = struct.pack("<Q", NUMBERS[int(rng.integers(0, len(NUMBERS)))])
        return kind, number[: _SIZES[kind]] if rng.integers(0, 4) else bytes(rng.bytes(_SIZES[kind]))
    element, length = struct.unpack_from("<IQ", value)
    if element != _STRING:
        items = [value[at : at + _SIZES[element]] for at in range(12, len(value), _SIZES[element])]
    else:
        items, at = [], 12
        for _ in range(length):
            text, at = _read_text(value, at)
            items.append(_text(text))
    if items:
        index, other = int(rng.integers(0, len(items))), int(rng.integers(0, len(items)))
        what = int(rng.integers(0, 5))
        if what == 0:
            items[index] = items[other]
        elif what == 1:
            del items[index:other]
        elif what == 2:
            items += items[index:other]
        elif element == _STRING:
            items[index] = _text(_changed_text(items[index][8:], rng))
        else:
            items[index] = bytes(rng.bytes(_SIZES[element]))
    return kind, struct.pack("<IQ", element, len(items)) + b"".join(items)


WORDS = (
    b"",
    b" ",
    b"\xff",
    b"\0",
    b"<0x41>",
    "\u2581".encode(),
    b"a b c",
    b"</s>",
    b"{{",
    b"{% for",
    b"%}",
    b"x" * 3000,
)
TEMPLATES = (
    b"{{ messages[0]['content'] * 10**9 }}",
    b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    b"{{ ''.__class__.__mro__ }}",
    b"{{ 9 ** 9 ** 9 }}",
    b"{% set x = 'a' * 9999999 %}{{ x }}",
    b"{{ '%0999999999d' % 1 }}",
    b"{{ range(10**12) | list }}",
    b"{{ " + b"(" * 500 + b"1" + b")" * 500 + b" }}",
    b"{{ messages | tojson(indent=99999999) }}",
    b"{{ strftime_now('%Y' * 99999) }}",
    b"{{ 'x' | center(10**10) }}",
    b"{{ ''.join(['a'] * 10**9) }}",
    b"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
)


def _changed_text(text: bytes, rng: np.random.Generator) -> bytes:
    word = WORDS[int(rng.integers(0, len(WORDS)))]
    at, what = int(rng.integers(0, len(text) + 1)), int(rng.integers(0, 4))
    if what == 0:
        return word
    if what == 1:
        return text[:at] + word + text[at:]
    if what == 2 and b"{" in text:
        return TEMPLATES[int(rng.integers(0, len(TEMPLATES)))]
    return text[:at]


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _without_padding(rest: bytes) -> bytes:
    """Tensor infos end with an offset, whose upper bytes are zeros as the padding is: eight of them stay."""
    return rest.rstrip(b"\0") + b"\0" * 8


def _padded(head: bytes) -> bytes:
    return head + b"\0" * (-len(head) % 64)
