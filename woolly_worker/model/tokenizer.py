"""Tokenizer: text <-> token ids, built from the metadata of the GGUF file alone.

Special tokens are cut out of the text here, as llama.cpp does it; what lies between is encoded by `spm.py` or `bpe.py`.
A tokenizer model or pre-tokenizer that is not known is an error that names it, never a guess.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from woolly_worker.contract.errors import InvalidRequest, ModelFileError
from woolly_worker.gguf.reader import GGUFFile, errors_naming
from woolly_worker.model.bpe import BpeEncoder, byte_alphabet, find_pre_tokenizer
from woolly_worker.model.spm import SPACE, SpmEncoder
from woolly_worker.model.vocab import TokenType, Vocab

SUPPORTED_MODELS = ("gpt2", "llama")
_BYTE_OF_CHARACTER = {character: byte for byte, character in byte_alphabet().items()}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


class Tokenizer:
    """Immutable once built, apart from a cache; safe to share between threads."""

    def __init__(self, vocab: Vocab, encoder: Encoder, *, spm: bool, add_space_prefix: bool) -> None:
        self._vocab = vocab
        self._encoder = encoder
        self._spm = spm
        self._add_space_prefix = add_space_prefix
        self._bytes: list[bytes | None] = [None] * vocab.size
        kinds = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        special = [(text, i) for i, text in enumerate(vocab.texts) if vocab.types[i] in kinds]
        self._special = sorted(special, key=lambda token: -len(token[0].encode()))  # the longest is cut out first
        self._user_defined = [(text, i) for text, i in self._special if vocab.types[i] == TokenType.USER_DEFINED]

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Tokenizer":
        """Raises ModelFileError if the vocabulary is damaged or of a kind Woolly does not know."""
        metadata = file.metadata
        with errors_naming(file.path):
            model = metadata.text("tokenizer.ggml.model")
            if model == "llama":
                vocab = Vocab.from_metadata(metadata, add_bos=True, bos_id=1, eos_id=2)
                prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
                if metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False):
                    raise ModelFileError("'tokenizer.ggml.remove_extra_whitespaces' is true, supported is false")
                return cls(vocab, SpmEncoder(vocab), spm=True, add_space_prefix=prefix)
            if model == "gpt2":
                description = find_pre_tokenizer(metadata)
                vocab = Vocab.from_metadata(metadata, add_bos=description.add_bos, bos_id=None, eos_id=None)
                prefix = metadata.flag("tokenizer.ggml.add_space_prefix", False)
                if prefix:
                    raise ModelFileError("'tokenizer.ggml.add_space_prefix' is true, supported for 'gpt2' is false")
                encoder = BpeEncoder(vocab, metadata.strings("tokenizer.ggml.merges"), description)
                return cls(vocab, encoder, spm=False, add_space_prefix=False)
            raise ModelFileError(
                f"the tokenizer model '{model[:80]}' is not supported; supported: {', '.join(SUPPORTED_MODELS)}"
            )

    @property
    def n_vocab(self) -> int:
        return self._vocab.size

    @property
    def bos_id(self) -> int | None:
        return self._vocab.bos_id

    @property
    def eos_id(self) -> int | None:
        return self._vocab.eos_id

    @property
    def eog_ids(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._vocab.eog_ids

    @property
    def add_bos(self) -> bool:
        return self._vocab.add_bos

    @property
    def add_eos(self) -> bool:
        return self._vocab.add_eos

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        add_special    put BOS before and EOS behind, where the model wants them
        parse_special  text that spells a control token becomes that token: for rendered chat templates, never for
                       text from a user. User-defined tokens are recognised always.
        """
        _check_unicode(text)
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for fragment in _cut_out(text, self._special if parse_special else self._user_defined):
            if isinstance(fragment, int):
                ids.append(fragment)
                after_special = True
                continue
            if self._spm:
                blank = " " if self._add_space_prefix and after_special else ""
                fragment = (blank + fragment).replace(" ", SPACE)
            ids.extend(self._encoder.encode(fragment))
            after_special = False
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def encode_chat(self, rendered: str) -> list[int]:
        """Token ids of a rendered chat template. BOS is not added where the template has already written it."""
        bos = self._vocab.texts[self.bos_id] if self.bos_id is not None else None
        starts_with_bos = bos is not None and rendered.startswith(bos)
        return self.encode(rendered, add_special=not starts_with_bos, parse_special=True)

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the output; nothing for control tokens. Bytes may be part of a character."""
        known = self._bytes[token_id]
        if known is None:
            known = self._bytes[token_id] = self._compute_bytes(token_id)
        return known

    def _compute_bytes(self, token_id: int) -> bytes:
        text, kind = self._vocab.texts[token_id], self._vocab.types[token_id]
        if kind == TokenType.USER_DEFINED:
            return text.encode()
        if kind == TokenType.BYTE:
            match = _BYTE_TOKEN.fullmatch(text)
            return bytes([int(match[1], 16)]) if match else b""
        if kind != TokenType.NORMAL:
            return b""
        if self._spm:
            return text.replace(SPACE, " ").encode()
        # A character outside the alphabet of bytes stands for itself.
        return b"".join(
            bytes([_BYTE_OF_CHARACTER[character]]) if character in _BYTE_OF_CHARACTER else character.encode()
            for character in text
        )

    def is_control(self, token_id: int) -> bool:
        return self._vocab.types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN)

    def token_text(self, token_id: int) -> str:
        """A printable form of one token, for logprobs: the text of control tokens too, broken characters replaced."""
        if self.is_control(token_id):
            return self._vocab.texts[token_id]
        return self.token_bytes(token_id).decode(errors="replace")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a whole sequence, so that `decode(encode(text)) == text`: the blank that SPM puts before the
        text is taken away again. Text that continues a prompt keeps it, see `engine/detokenizer.py`."""
        data = b"".join(self.token_bytes(token_id) for token_id in ids)
        if self._add_space_prefix and data.startswith(b" "):
            data = data[1:]
        return data.decode(errors="replace")


def _cut_out(text: str, special: list[tuple[str, int]]) -> list[str | int]:
    """Text and ids of special tokens in turn. The longest special text wins wherever it stands, then the leftmost."""
    fragments: list[str | int] = [text] if text else []
    for spelled, token_id in special:
        if spelled not in text:
            continue
        cut: list[str | int] = []
        for fragment in fragments:
            if isinstance(fragment, int) or spelled not in fragment:
                cut.append(fragment)
                continue
            for index, between in enumerate(fragment.split(spelled)):
                if index:
                    cut.append(token_id)
                if between:
                    cut.append(between)
        fragments = cut
    return fragments


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the text is not valid Unicode: character {error.start:,} of {len(text):,} is half of a surrogate pair"
        ) from None
