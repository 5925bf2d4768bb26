"""Documents to training rows: whole documents side by side, each row beginning where a document begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from woolly_worker.demo.corpus import Piece
from woolly_worker.demo.vocabulary import END

NOT_LEARNED = -100  # PyTorch's default ignore_index

Row = NDArray[np.int64]


def _encode(document: list[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    learned: list[bool] = []
    for piece in document:
        encoded = tokenizer.encode(piece.text).ids
        ids += encoded
        learned += [piece.learned] * len(encoded)
    return ids, learned


def batches(
    documents: Iterable[list[Piece]], tokenizer: Tokenizer, n_rows: int, n_tokens: int
) -> Iterator[tuple[Row, Row, Row]]:
    """(inputs, targets, document numbers), each (n_rows, n_tokens).

    A document that does not fit begins the next row; what is left of a row is filled with END, not learned, and has
    the number 0. Only a document longer than a row is cut.
    """
    end = tokenizer.token_to_id(END)
    ids = np.full((n_rows, n_tokens + 1), end, dtype=np.int64)
    targets = np.full((n_rows, n_tokens + 1), NOT_LEARNED, dtype=np.int64)
    numbers = np.zeros((n_rows, n_tokens + 1), dtype=np.int64)
    row = column = 0
    for number, document in enumerate(documents, start=1):
        new_ids, learned = _encode(document, tokenizer)
        if column and column + len(new_ids) > n_tokens + 1:
            row, column = row + 1, 0
            if row == n_rows:
                yield ids[:, :-1].copy(), targets[:, 1:].copy(), numbers[:, :-1].copy()
                ids.fill(end)
                targets.fill(NOT_LEARNED)
                numbers.fill(0)
                row = 0
        new_ids, learned = new_ids[: n_tokens + 1], learned[: n_tokens + 1]
        here = slice(column, column + len(new_ids))
        ids[row, here] = new_ids
        # The first token follows another document, or nothing: there is nothing to learn it from.
        targets[row, here] = np.where([False, *learned[1:]], new_ids, NOT_LEARNED)
        numbers[row, here] = number
        column += len(new_ids)
