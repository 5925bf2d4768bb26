"""Matrices times tokens: bit for bit what `row_dot` gives for each row and token, whatever the shape and the team."""

import numpy as np
import numpy.typing as npt
import pytest
from guarded import ReadOnly
from kernel_memory import Region, record, run_op, same_bits
from quant_blocks import columns_to_try, random_rows
from test_formats import ALL, activation

from woolly_worker.kernels import matmul
from woolly_worker.kernels.activations import row_bytes
from woolly_worker.kernels.formats.float_loops import CHUNK_BYTES, LEAST_CHUNK
from woolly_worker.kernels.formats.fours import terms_bytes
from woolly_worker.kernels.formats.registry import FORMATS
from woolly_worker.kernels.matmul import FEW_TOKENS
from woolly_worker.kernels.matrix_unit_parts import tokens_of_a_pass
from woolly_worker.kernels.step import N_LOGIT_ROWS, N_TOKENS, TOKEN_IDS

Floats = npt.NDArray[np.float32]
FLOATS = [name for name in ALL if FORMATS[name].block == 1]
SPARE = 24  # bytes between the rows of the result that no one may write


class Product:
    """A matrix and tokens; what `row_dot` says about them, and what the operation does."""

    def __init__(self, name: str, n_rows: int, n_cols: int, n_tokens: int) -> None:
        rng = np.random.default_rng(n_rows * n_cols + n_tokens)
        self.format = FORMATS[name]
        self.n_rows, self.n_cols, self.n_tokens = n_rows, n_cols, n_tokens
        self.rows = random_rows(name, n_rows, n_cols, rng)
        self.x, _ = activation(self.format, rng.standard_normal((max(1, n_tokens), n_cols)).astype(np.float32))
        self.x_stride = self.x.values.nbytes // max(1, n_tokens)

    def one_by_one(self) -> Floats:
        matrix = Region(self.rows, np.uint8, 1)
        out = np.zeros((self.n_tokens, self.n_rows), np.float32)
        for t in range(self.n_tokens):
            for r in range(self.n_rows):
                row = matrix.address + r * self.rows.shape[1]
                out[t, r] = self.format.row_dot(row, self.x.address + t * self.x_stride, self.n_cols)
        return out

    def at_once(
        self,
        *,
        least_take: int = 16,
        share: int = 2,
        n_members: int = 1,
        before: Floats | None = None,
        logits: bool = False,
        scratch_bytes: int | None = None,
    ) -> Floats:
        """With the matrix at the very end of a read-only mapping, and no more scratch than is asked for."""
        stride = 4 * self.n_rows + SPARE
        start = np.full((self.n_tokens, stride // 4), np.float32(7.5))
        if before is not None:
            start[:, : self.n_rows] = before
        out = Region(start, np.float32, 4)
        scratch_bytes = scratch_bytes or self.format.scratch_bytes(self.n_cols, self.n_tokens)
        scratch_bytes = -(-scratch_bytes // 64) * 64
        scratch = Region(np.full((n_members, scratch_bytes), 0xFF), np.uint8)
        with ReadOnly(self.rows.tobytes()) as matrix:
            args = record(
                matmul.MATMUL_FIELDS,
                {
                    matmul.WEIGHTS: matrix.address,
                    matmul.ROW_BYTES: self.rows.shape[1],
                    matmul.N_ROWS: self.n_rows,
                    matmul.N_COLS: self.n_cols,
                    matmul.X: self.x.address,
                    matmul.X_STRIDE: self.x_stride,
                    matmul.OUT: out.address,
                    matmul.OUT_STRIDE: stride,
                    matmul.LEAST_TAKE: least_take,
                    matmul.SHARE: share,
                    matmul.SCRATCH: scratch.address,
                    matmul.SCRATCH_STRIDE: scratch_bytes,
                    matmul.ADD_TO_OUT: int(before is not None),
                    matmul.COUNT_FIELD: N_LOGIT_ROWS if logits else N_TOKENS,
                },
            )
            step = {N_LOGIT_ROWS: self.n_tokens, N_TOKENS: 99} if logits else {N_TOKENS: self.n_tokens}
            run_op(self.format.matmul, args, step, n_members)
        assert scratch.values is not None  # fails if it was overrun
        assert (out.values[:, self.n_rows :] == 7.5).all()
        return out.values[:, : self.n_rows]


@pytest.mark.parametrize("n_tokens", [*range(18), FEW_TOKENS, FEW_TOKENS + 1, FEW_TOKENS + 14])
@pytest.mark.parametrize("name", ALL)
def test_panels_equal_row_dots(name: str, n_tokens: int) -> None:
    """One to seventeen tokens meet every tile size and every remainder, more of them the way of many tokens; 37 rows
    leave five behind the panels."""
    product = Product(name, 37, columns_to_try(FORMATS[name])[-1 if n_tokens % 2 else 2], n_tokens)
    assert same_bits(product.at_once(least_take=16 if n_tokens % 2 else 48), product.one_by_one())


@pytest.mark.parametrize("name", [name for name in ALL if name not in FLOATS])
def test_tokens_that_do_not_pass_at_once(name: str) -> None:
    """A matrix unit takes as many tokens at a time as L2 holds. 53 rows: two panels, one, and five behind them."""
    n_cols = 1 << 14
    n_tokens = tokens_of_a_pass.py_func(row_bytes(FORMATS[name].activation, n_cols)) + 22
    product = Product(name, 53, n_cols, n_tokens)
    assert same_bits(product.at_once(n_members=2, least_take=48), product.one_by_one())


@pytest.mark.parametrize("n_rows", [1, 5, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("name", ALL)
def test_any_number_of_rows_by_any_team(name: str, n_rows: int) -> None:
    for n_cols in columns_to_try(FORMATS[name])[:3]:
        for n_tokens in (1, 3, 20):
            product = Product(name, n_rows, n_cols, n_tokens)
            expected = product.one_by_one()
            for least_take, share, n_members in ((16, 1, 1), (16, 4, 2), (32, 6, 3), (1 << 12, 3, 2), (16, 99, 2)):
                found = product.at_once(least_take=least_take, share=share, n_members=n_members)
                assert same_bits(found, expected)


@pytest.mark.parametrize("n_blocks", range(4, 10))
@pytest.mark.parametrize("name", [name for name in ALL if FORMATS[name].block == 256])
def test_one_token_times_rows_of_fours_and_what_is_left(name: str, n_blocks: int) -> None:
    """Sixteen rows at once take the last four blocks again where less are left; 37 rows leave five to themselves."""
    product = Product(name, 37, 256 * n_blocks, 1)
    product.rows = random_rows(name, 37, product.n_cols, np.random.default_rng(n_blocks), extreme=n_blocks % 2 == 1)
    before = np.random.default_rng(5).standard_normal((1, 37)).astype(np.float32)
    expected = product.one_by_one()
    assert same_bits(product.at_once(least_take=32, n_members=2), expected)
    assert same_bits(product.at_once(before=before, scratch_bytes=terms_bytes(product.n_cols)), before + expected)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 13])
@pytest.mark.parametrize("name", ALL)
def test_adding_to_the_residual(name: str, n_tokens: int) -> None:
    """out = what it held + the product, rounded once; also for the rows whose logits are wanted."""
    product = Product(name, 37, columns_to_try(FORMATS[name])[1], n_tokens)
    before = np.random.default_rng(5).standard_normal((n_tokens, 37)).astype(np.float32)
    assert same_bits(product.at_once(before=before, n_members=2, logits=True), before + product.one_by_one())


@pytest.mark.parametrize("n_tokens", [9, 53])
@pytest.mark.parametrize("name", ALL)
def test_extreme_blocks_give_the_same_bits(name: str, n_tokens: int) -> None:
    format_, rng = FORMATS[name], np.random.default_rng(6)
    product = Product(name, 32, columns_to_try(format_)[-1], n_tokens)
    product.rows = random_rows(name, 32, product.n_cols, rng, extreme=True)
    signs = rng.choice([-1, 1], (n_tokens, product.n_cols)).astype(np.float32)
    signs[0], signs[1] = 1, -1
    product.x, _ = activation(format_, signs)
    assert same_bits(product.at_once(least_take=32), product.one_by_one())


@pytest.mark.parametrize("name", FLOATS)
def test_chunks_of_tokens_take_turns(name: str) -> None:
    """Rows so long that the tokens come in chunks of the least size, with two panels and some rows for each."""
    n_cols = CHUNK_BYTES // (4 * LEAST_CHUNK) + 172
    product = Product(name, 37, n_cols, 2 * LEAST_CHUNK + 3)
    assert same_bits(product.at_once(least_take=1 << 10, n_members=2), product.one_by_one())


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_embedding_takes_the_rows_of_the_tokens(name: str, n_members: int) -> None:
    format_, rng = FORMATS[name], np.random.default_rng(7)
    for n_cols in columns_to_try(format_):
        rows = random_rows(name, 11, n_cols, rng)
        tokens = np.array([0, 10, 3, 3, 9], np.int32)
        stride = 4 * n_cols + SPARE
        out = Region(np.full((len(tokens), stride // 4), np.float32(7.5)), np.float32, 4)
        with ReadOnly(rows.tobytes()) as table:
            fields = {
                matmul.WEIGHTS: table.address,
                matmul.ROW_BYTES: rows.shape[1],
                matmul.EMBED_OUT: out.address,
                matmul.EMBED_OUT_STRIDE: stride,
                matmul.EMBED_N_COLS: n_cols,
            }
            step = {N_TOKENS: len(tokens), TOKEN_IDS: Region(tokens, np.int32).address}
            run_op(format_.embed, record(matmul.EMBED_FIELDS, fields), step, n_members)
        for t, token in enumerate(tokens):
            one = Region(np.zeros(n_cols), np.float32)
            format_.dequantize(Region(rows[token], np.uint8).address, n_cols, one.address)
            assert same_bits(out.values[t, :n_cols], one.values)
        assert (out.values[:, n_cols:] == 7.5).all()
