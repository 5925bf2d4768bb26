"""One matrix multiplied again and again, by the kernels on a team of threads and by the naive loop."""

import time

import numpy as np
import numpy.typing as npt

from woolly_worker.kernels.step import N_TOKENS
from woolly_worker.kernels.team import Team
from woolly_worker.memory.activations import Rows
from woolly_worker.memory.kv_cache import KVCache, KVLayout
from woolly_worker.model.baseline import NaiveMatrix
from woolly_worker.model.program import Program, rows_for
from woolly_worker.model.weights import Matrix

_NO_KV = KVLayout(n_layer=1, n_head_kv=1, head_dim=16)  # a program wants one, and this one has no attention


class KernelMatmul:
    """x -> W x for `n_tokens` random rows x, with what a step does around it: x is quantised once, W x every time."""

    def __init__(self, matrix: Matrix, n_tokens: int, *, n_threads: int) -> None:
        self.x: Rows = rows_for(n_tokens, matrix.n_cols, matrix)
        self.out = Rows(n_tokens, matrix.n_rows)
        self.x.array()[:] = random_rows(n_tokens, matrix.n_cols)
        kv = KVCache(_NO_KV, 1)
        prepare = Program(1, kv, n_head=1, head_dim=16, n_ctx=1)
        prepare.quantize(self.x)
        prepare.matmul(matrix, self.x, into=self.out)
        self._run_once(prepare, n_tokens, 1)
        self._program = Program(n_threads, kv, n_head=1, head_dim=16, n_ctx=1)
        self._program.matmul(matrix, self.x, into=self.out)
        self._team = Team(self._program.array(), n_threads)
        self._team.step[N_TOKENS] = n_tokens

    @staticmethod
    def _run_once(program: Program, n_tokens: int, n_threads: int) -> None:
        team = Team(program.array(), n_threads)
        team.step[N_TOKENS] = n_tokens
        team.run()
        team.close()

    def run(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        self._team.run()
        return time.perf_counter() - start

    def close(self) -> None:
        self._team.close()


class NaiveMatmul:
    """The same product by the naive loop, which dequantises every row for every token."""

    def __init__(self, matrix: Matrix, n_tokens: int) -> None:
        self.x = random_rows(n_tokens, matrix.n_cols)
        self._matrix = NaiveMatrix(matrix)
        self.out = self._matrix @ self.x  # compiles

    def run(self) -> float:
        """Seconds."""
        start = time.perf_counter()
        self.out = self._matrix @ self.x
        return time.perf_counter() - start


def random_rows(n_rows: int, n_cols: int) -> npt.NDArray[np.float32]:
    """Near unit size, as activations are behind a norm; the same at every call."""
    return np.random.default_rng(5).standard_normal((n_rows, n_cols), np.float32)
