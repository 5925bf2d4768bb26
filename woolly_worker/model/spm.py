"""SentencePiece-style BPE ("llama" in GGUF): pieces with scores, and bytes for what has no piece.

The rule (llama.cpp `llm_tokenizer_spm`, SentencePiece `bpe_model.cc`): of all neighbours whose joined text is a piece,
join the pair with the best score, leftmost first among equals, until none is left. The `tokenizers` library does this
by rank instead of score. Ranks equal scores exactly as long as no two pieces have the same score: then a piece is
always joined from the same two parts, because the order of joins inside its span does not depend on what stands
around it. So the library joins all pieces above the best score that occurs twice (in Llama 2 that leaves only the runs
of blanks), and `_finish` does the rest by the rule itself.

Unlike llama.cpp, text never turns into a control, unknown or byte token, even if it spells one.
"""

import heapq
from collections import Counter
from itertools import pairwise

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE

from woolly_worker.contract.errors import ModelFileError
from woolly_worker.model.vocab import TokenType, Vocab

SPACE = "\u2581"
_NEVER_FROM_TEXT = frozenset({TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE})
_GONE = -1  # joined into its left neighbour; no join has it as a part


class SpmEncoder:
    """Text without special tokens -> ids. Blanks are already replaced by SPACE."""

    def __init__(self, vocab: Vocab) -> None:
        if vocab.scores is None:
            raise ModelFileError("a 'llama' vocabulary needs 'tokenizer.ggml.scores', the file has none")
        scores: list[float] = vocab.scores.tolist()
        pieces = {
            text: token_id for token_id, text in enumerate(vocab.texts) if vocab.types[token_id] not in _NEVER_FROM_TEXT
        }
        self._byte_ids = _byte_ids(vocab)
        # A character inside a piece that is no piece itself can still be joined: it gets an id past the vocabulary,
        # which becomes bytes again if it is left over.
        self._spelled = _characters_without_piece(pieces, vocab.size)
        parts = pieces | self._spelled
        self._joins: dict[tuple[int, int], tuple[float, int]] = {}  # (left, right) -> (-score, joined)
        ranked: list[tuple[float, str, str]] = []
        for text, token_id in pieces.items():
            for cut in range(1, len(text)):
                left, right = parts.get(text[:cut]), parts.get(text[cut:])
                if left is not None and right is not None:
                    self._joins[left, right] = (-scores[token_id], token_id)
                    ranked.append((-scores[token_id], text[:cut], text[cut:]))
        joined = {token_id: key for key, token_id in self._joins.values()}
        shared = [key for key, count in Counter(joined.values()).items() if count > 1]
        self._first_shared = min(shared) if shared else None
        if self._first_shared is not None:
            ranked = [join for join in ranked if join[0] < self._first_shared]
        ranked.sort(key=lambda join: join[0])
        self._spellings = {token_id: self._bytes_of(text) for text, token_id in self._spelled.items()}
        self._library = RustTokenizer(
            BPE(
                vocab=parts | {vocab.texts[token_id]: token_id for token_id in self._byte_ids},
                merges=[(left, right) for _, left, right in ranked],
                byte_fallback=True,
            )
        )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        if self._first_shared is not None:
            ids = self._finish(ids)
        if self._spellings:
            ids = [part for token_id in ids for part in self._spellings.get(token_id, (token_id,))]
        return ids

    def _bytes_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._byte_ids[byte] for byte in text.encode())

    def _finish(self, ids: list[int]) -> list[int]:
        """The rule itself, starting from `ids`: a linked list of symbols and a heap of candidate joins."""
        joins = self._joins
        queue = [(joins[pair][0], left, joins[pair][1]) for left, pair in enumerate(pairwise(ids)) if pair in joins]
        if not queue:
            return ids
        heapq.heapify(queue)  # best score first, then leftmost
        symbols = list(ids)
        after = [*range(1, len(ids)), -1]
        before = list(range(-1, len(ids) - 1))
        while queue:
            key, left, joined = heapq.heappop(queue)
            right = after[left]
            # Outdated unless the two that stand here now still join to the same piece.
            if right < 0 or joins.get((symbols[left], symbols[right])) != (key, joined):
                continue
            symbols[left], symbols[right] = joined, _GONE
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            for a, b in ((before[left], left), (left, after[left])):
                if a >= 0 and b >= 0:
                    candidate = joins.get((symbols[a], symbols[b]))
                    if candidate is not None:
                        heapq.heappush(queue, (candidate[0], a, candidate[1]))
        return [symbol for symbol in symbols if symbol != _GONE]


def _byte_ids(vocab: Vocab) -> list[int]:
    """The ids of <0x00> to <0xFF>. All are required: without one, some text would vanish."""
    found = {text: token_id for token_id, text in enumerate(vocab.texts) if vocab.types[token_id] == TokenType.BYTE}
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in found]
    if missing:
        raise ModelFileError(
            f"a 'llama' vocabulary needs 256 byte tokens, {len(missing)} are missing: <0x{missing[0]:02X}>"
        )
    return [found[f"<0x{byte:02X}>"] for byte in range(256)]


def _characters_without_piece(pieces: dict[str, int], first_id: int) -> dict[str, int]:
    missing = sorted({character for text in pieces if len(text) > 1 for character in text} - pieces.keys())
    return {character: first_id + index for index, character in enumerate(missing)}
