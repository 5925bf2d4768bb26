"""SpmEncoder equals the rule it stands for, also for vocabularies that break what it builds on: equal scores, and
characters that are no pieces."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from woolly_worker.contract.errors import ModelFileError
from woolly_worker.model.spm import SpmEncoder
from woolly_worker.model.vocab import TokenType, Vocab


def vocab_of(pieces: dict[str, float]) -> Vocab:
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * len(pieces)]
    return Vocab(
        texts=texts,
        types=[int(kind) for kind in types],
        scores=np.array([0.0] * 259 + list(pieces.values()), np.float32),
        bos_id=1,
        eos_id=2,
        eog_ids=frozenset({2}),
        add_bos=True,
        add_eos=False,
    )


def by_the_rule(pieces: dict[str, float], text: str) -> list[str]:
    """The definition, as slow as it reads: join the best-scored neighbours, leftmost first, until none joins."""
    symbols = list(text)
    while True:
        joins = [(-np.float32(pieces[a + b]), at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in pieces]
        if not joins:
            break
        at = min(joins)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    out: list[str] = []
    for symbol in symbols:
        out += [symbol] if symbol in pieces else [f"<0x{byte:02X}>" for byte in symbol.encode()]
    return out


letters = st.text(alphabet="abcä", min_size=1, max_size=5)
# Scores out of a small set, so that many are equal; not every letter needs to be a piece.
vocabularies = st.dictionaries(letters, st.integers(-6, 0).map(float), max_size=25)
distinct = st.lists(letters, max_size=25, unique=True).map(
    lambda pieces: {piece: -float(rank) for rank, piece in enumerate(pieces)}
)


@settings(max_examples=300)
@given(vocabularies | distinct, st.text(alphabet="abcäé", max_size=30))
def test_equals_the_rule(pieces: dict[str, float], text: str) -> None:
    vocab = vocab_of(pieces)
    assert [vocab.texts[i] for i in SpmEncoder(vocab).encode(text)] == by_the_rule(pieces, text)


def test_runs_with_one_score_grow_from_the_left() -> None:
    pieces = {"a": -1.0, "aa": -9.0, "aaa": -9.0, "aaaa": -9.0}
    vocab = vocab_of(pieces)
    assert [vocab.texts[i] for i in SpmEncoder(vocab).encode("a" * 10)] == ["aaaa", "aaaa", "aa"]


def test_long_texts_take_no_quadratic_time() -> None:
    pieces = {"a": -1.0, "aa": -2.0, "b": -2.0, "ab": -2.0, "aaaa": -3.0}
    ids = SpmEncoder(vocab_of(pieces)).encode("aab" * 30_000)
    assert len(ids) == 60_000


def test_scores_are_required() -> None:
    vocab = vocab_of({"a": 0.0})
    without = Vocab(vocab.texts, vocab.types, None, 1, 2, vocab.eog_ids, True, False)
    with pytest.raises(ModelFileError, match="scores"):
        SpmEncoder(without)
