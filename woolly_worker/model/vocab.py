"""Vocab: the token table of a GGUF file, checked: texts, types, scores, special ids.

Both kinds of tokenizer (`spm.py`, `bpe.py`) are built from it; no text is encoded here. What a file leaves out and
what its tokens' texts mean follows llama.cpp, `src/llama-vocab.cpp`.
"""

from dataclasses import dataclass
from enum import IntEnum, unique

import numpy as np
import numpy.typing as npt

from woolly_worker.contract.errors import ModelFileError
from woolly_worker.gguf.metadata import Metadata


@unique
class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Texts that end a turn in some model family, whatever the metadata says (llama.cpp's special_eog_ids).
END_OF_GENERATION_TEXTS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
        # fill-in-the-middle: the model starts another file, repository or padding
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
    }
)
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class Vocab:
    """`types` holds TokenType numbers. `scores` is None where the file has none (BPE)."""

    texts: list[str]
    types: list[int]
    scores: npt.NDArray[np.float32] | None
    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool

    @property
    def size(self) -> int:
        return len(self.texts)

    @classmethod
    def from_metadata(cls, metadata: Metadata, *, add_bos: bool, bos_id: int | None, eos_id: int | None) -> "Vocab":
        """The keyword arguments stand in for keys that the file does not have."""
        texts = _texts(metadata)
        types = _types(metadata, len(texts))
        bos_id = _token_id(metadata, "bos_token_id", bos_id, len(texts))
        eos_id = _token_id(metadata, "eos_token_id", eos_id, len(texts))
        eog_ids = _named_ends(metadata, texts, types)
        for token_id in eog_ids:
            types[token_id] = TokenType.CONTROL  # some converters forgot to say so
        by_key = [_token_id(metadata, key, None, len(texts)) for key in _END_KEYS]
        eog_ids |= {end for end in (eos_id, *by_key) if end is not None}
        add_bos = metadata.flag("tokenizer.ggml.add_bos_token", add_bos)
        add_eos = metadata.flag("tokenizer.ggml.add_eos_token", False)
        for add, special_id, name in ((add_bos, bos_id, "bos"), (add_eos, eos_id, "eos")):
            if add and special_id is None:
                raise ModelFileError(
                    f"a {name.upper()} token is to be added, but 'tokenizer.ggml.{name}_token_id' is missing"
                )
        return cls(
            texts=texts,
            types=types,
            scores=_scores(metadata, len(texts)),
            bos_id=bos_id,
            eos_id=eos_id,
            eog_ids=frozenset(eog_ids),
            add_bos=add_bos,
            add_eos=add_eos,
        )


def _texts(metadata: Metadata) -> list[str]:
    texts = [text or f"[EMPTY_{index}]" for index, text in enumerate(metadata.strings("tokenizer.ggml.tokens"))]
    if not texts:
        raise ModelFileError("'tokenizer.ggml.tokens' is empty")
    if len(set(texts)) != len(texts):
        first_at: dict[str, int] = {}
        for index, text in enumerate(texts):
            if first_at.setdefault(text, index) != index:
                raise ModelFileError(f"the tokens {first_at[text]:,} and {index:,} have the same text")
    return texts


def _named_ends(metadata: Metadata, texts: list[str], types: list[int]) -> set[int]:
    """Tokens that end a generation by their text. An ordinary token that merges can spell is text: Qwen 2 has an
    ordinary "</s>", for HTML."""
    found = {token_id for token_id, text in enumerate(texts) if text in END_OF_GENERATION_TEXTS}
    ordinary = {token_id for token_id in found if types[token_id] == TokenType.NORMAL}
    if not ordinary:
        return found
    if "tokenizer.ggml.merges" in metadata:
        joined = {merge.replace(" ", "") for merge in metadata.strings("tokenizer.ggml.merges")}
        return {token_id for token_id in found if token_id not in ordinary or texts[token_id] not in joined}
    known = set(texts)

    def spelled(text: str) -> bool:
        return any(text[:cut] in known and text[cut:] in known for cut in range(1, len(text)))

    return {token_id for token_id in found if token_id not in ordinary or not spelled(texts[token_id])}


def _types(metadata: Metadata, n_vocab: int) -> list[int]:
    """Required: without it control tokens could not be told from text."""
    key = "tokenizer.ggml.token_type"
    types = metadata.numbers(key)
    if types.dtype.kind not in "iu":
        raise ModelFileError(f"'{key}' holds {types.dtype}, it should hold integers")
    if len(types) != n_vocab:
        raise ModelFileError(f"'{key}' has {len(types):,} entries, the vocabulary {n_vocab:,}")
    if int(types.min()) < min(TokenType) or int(types.max()) > max(TokenType):
        raise ModelFileError(
            f"'{key}' has values from {types.min()} to {types.max()}, known are {min(TokenType)} to {max(TokenType)}"
        )
    return [int(number) for number in types.tolist()]


def _scores(metadata: Metadata, n_vocab: int) -> npt.NDArray[np.float32] | None:
    key = "tokenizer.ggml.scores"
    if key not in metadata:
        return None
    scores = metadata.numbers(key).astype(np.float32)
    if len(scores) != n_vocab:
        raise ModelFileError(f"'{key}' has {len(scores):,} entries, the vocabulary {n_vocab:,}")
    if np.isnan(scores).any():
        raise ModelFileError(f"'{key}' holds {int(np.isnan(scores).sum()):,} values that are not numbers")
    return scores


def _token_id(metadata: Metadata, name: str, default: int | None, n_vocab: int) -> int | None:
    key = f"tokenizer.ggml.{name}"
    if key not in metadata:
        return default if default is not None and default < n_vocab else None
    token_id = metadata.integer(key)
    if not 0 <= token_id < n_vocab:
        raise ModelFileError(f"'{key}' is {token_id:,}, the vocabulary has {n_vocab:,} tokens")
    return token_id
