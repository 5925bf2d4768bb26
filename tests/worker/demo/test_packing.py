"""Rows of whole documents, and the vocabulary they are written in."""

import re
from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer

from woolly_worker.demo.corpus import documents
from woolly_worker.demo.packing import NOT_LEARNED, batches
from woolly_worker.demo.vocabulary import ASSISTANT, CONTROL_TOKENS, END, USER, Vocabulary, train_vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    pieces = (piece.text for document in islice(documents(1), 300) for piece in document)
    return train_vocabulary(pieces, 500)


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return vocabulary.tokenizer()


def test_the_vocabulary_has_its_size_and_begins_with_the_control_tokens(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == 500
    assert vocabulary.tokens[: len(CONTROL_TOKENS)] == CONTROL_TOKENS


def test_figures_stay_single(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("12 + 345").tokens
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("12345")


def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    text = "The fox said: “Łódź, naïve 日本 🦊?”\n\t 7+8"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_rows_begin_with_documents_and_only_answers_are_learned(tokenizer: Tokenizer) -> None:
    inputs, targets, numbers = next(batches(documents(2), tokenizer, 8, 512))
    assert inputs.shape == targets.shape == (8, 512)
    assert numbers[0, 0] == 1
    assert all((np.diff(row[row > 0]) >= 0).all() for row in numbers)
    first_document = "".join(piece.text for piece in next(documents(2)))
    first_ids = tokenizer.encode(first_document).ids
    assert inputs[0, : len(first_ids)].tolist() == first_ids
    user, assistant, end = (tokenizer.token_to_id(token) for token in (USER, ASSISTANT, END))
    for row, wanted in zip(inputs, targets, strict=True):
        learned = wanted != NOT_LEARNED
        # A target is the next input; what a user says is never one.
        assert np.array_equal(wanted[:-1][learned[:-1]], row[1:][learned[:-1]])
        asking = False
        for token, target in zip(row, wanted, strict=True):
            asking = True if token == user else False if token == assistant else asking
            if asking:
                assert target == NOT_LEARNED
        assert end in wanted


def test_no_document_is_lost_or_cut(tokenizer: Tokenizer) -> None:
    source = list(islice(documents(3), 100))
    written = "".join(piece.text for document in source for piece in document)
    found = "".join(
        tokenizer.decode(row.tolist(), skip_special_tokens=False)
        for inputs, _, _ in batches(source, tokenizer, 2, 1024)
        for row in inputs
    )
    found = re.sub(rf"({re.escape(END)})+", END, found)  # rows are filled up with END
    assert len(found) > len(written) / 2  # the last, unfinished rows are not handed out
    assert written.startswith(found.removesuffix(END))
