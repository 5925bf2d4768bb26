"""Byte-level BPE ("gpt2" in GGUF): every byte is a character, words are cut first, then merged by rank.

All of it is done by the `tokenizers` library; this file checks the vocabulary and wires it up. Control, unknown and
user-defined tokens are left out, so that text never turns into one of them by spelling it.
"""

from tokenizers import Regex
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from woolly_worker.contract.errors import InvalidRequest, ModelFileError
from woolly_worker.gguf.metadata import Metadata
from woolly_worker.model.pretokenizers import PRE_TOKENIZERS
from woolly_worker.model.pretokenizers import PreTokenizer as Description
from woolly_worker.model.vocab import TokenType, Vocab

_NEVER_FROM_TEXT = frozenset({TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED, TokenType.BYTE})


def byte_alphabet() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters: printable Latin-1 stands for itself, the rest is moved up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {byte: chr(256 + index) for index, byte in enumerate(others)}
    return {byte: chr(byte) for byte in printable} | moved


def find_pre_tokenizer(metadata: Metadata) -> Description:
    known = ", ".join(sorted(PRE_TOKENIZERS))
    if "tokenizer.ggml.pre" not in metadata:
        raise ModelFileError(
            f"the file has no 'tokenizer.ggml.pre', so nobody can know how its text is cut into words; convert the "
            f"model again with a newer converter. Known pre-tokenizers: {known}"
        )
    name = metadata.text("tokenizer.ggml.pre")
    if name not in PRE_TOKENIZERS:
        raise ModelFileError(f"the pre-tokenizer '{name[:80]}' is not supported; supported: {known}")
    return PRE_TOKENIZERS[name]


class BpeEncoder:
    """Text without special tokens -> ids."""

    def __init__(self, vocab: Vocab, merges: list[str], description: Description) -> None:
        words = {
            text: token_id for token_id, text in enumerate(vocab.texts) if vocab.types[token_id] not in _NEVER_FROM_TEXT
        }
        # Real vocabularies lack a few: bytes that UTF-8 never uses, and control characters.
        self._missing = frozenset(byte for byte, text in byte_alphabet().items() if text not in words)
        if len(self._missing) > 128:
            raise ModelFileError(f"a 'gpt2' vocabulary needs a token for every byte, {len(self._missing)} are missing")
        splits: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in description.patterns]
        self._library = RustTokenizer(
            BPE(vocab=words, merges=_pairs(merges, words), ignore_merges=description.ignore_merges)
        )
        self._library.pre_tokenizer = Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])

    def encode(self, text: str) -> list[int]:
        """Raises InvalidRequest for a character that this vocabulary cannot write, which would else vanish."""
        if self._missing:
            lost = self._missing.intersection(text.encode())
            if lost:
                raise InvalidRequest(f"the text has the byte 0x{min(lost):02X}, for which the model has no token")
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids


def _pairs(merges: list[str], words: dict[str, int]) -> list[tuple[str, str]]:
    pairs: dict[tuple[str, str], None] = {}  # the first of two equal merges counts
    for rank, merge in enumerate(merges):
        left, blank, right = merge.partition(" ")
        if not blank or left not in words or right not in words or left + right not in words:
            raise ModelFileError(f"merge {rank:,} of {len(merges):,} does not join two tokens to a third")
        pairs[left, right] = None
    return list(pairs)
