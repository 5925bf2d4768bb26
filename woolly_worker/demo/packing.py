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
) -> Iterator[tuple[Row, Row]]:
    """(inputs, targets), each (n_rows, n_tokens). A document that does not fit begins the next row; what is left
    of a row is filled with END and not learned. Only a document longer than a row is cut."""
    end = tokenizer.token_to_id(END)
    ids = np.full((n_rows, n_tokens + 1), end, dtype=np.int64)
    targets = np.full((n_rows, n_tokens + 1), NOT_LEARNED, dtype=np.int64)
    row = column = 0
    for document in documents:
        new_ids, learned = _encode(document, tokenizer)
        if column and column + len(new_ids) > n_tokens + 1:
            row, column = row + 1, 0
            if row == n_rows:
                yield ids[:, :-1].copy(), targets[:, 1:].copy()
                ids.fill(end)
                targets.fill(NOT_LEARNED)
                row = 0
        new_ids, learned = new_ids[: n_tokens + 1], learned[: n_tokens + 1]
        here = slice(column, column + len(new_ids))
        ids[row, here] = new_ids
        targets[row, here] = np.where(learned, new_ids, NOT_LEARNED)
        column += len(new_ids)
