"""What a worker measures of itself, with the demo model."""

from collections.abc import Iterator

import numpy as np
import pytest

from woolly_worker.bench import beside
from woolly_worker.bench.beside import Subject, measure
from woolly_worker.bench.matmul import KernelMatmul, NaiveMatmul
from woolly_worker.contract.benchmarks import BenchmarkType
from woolly_worker.contract.errors import JobCancelled
from woolly_worker.demo import DEMO_MODEL
from woolly_worker.model.weights import open_model


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    config, weights = open_model(DEMO_MODEL)
    with weights.file:
        yield Subject(config, weights, n_threads=1)


@pytest.mark.parametrize("kind", list(BenchmarkType))
def test_every_type_is_measured_beside_its_baseline(kind: BenchmarkType, subject: Subject) -> None:
    measured = measure(subject, kind, 3)
    assert measured.seconds > 0
    assert 1 <= measured.baseline_iterations <= 3
    assert measured.baseline_average > 0
    assert measured.n_threads == 1
    if kind is BenchmarkType.MATRIX_MULTIPLICATION:
        assert subject.weights.layers[0].ffn_up.name in measured.what


def test_a_worker_with_the_baseline_measures_the_baseline(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: no kernel is made for it."""

    def never(*args: object, **options: object) -> None:
        raise AssertionError("a kernel was made")

    monkeypatch.setattr(beside, "KernelMatmul", never)
    monkeypatch.setattr(beside, "Transformer", never)
    naive = Subject(subject.config, subject.weights, n_threads=1, is_naive=True)
    for kind in (BenchmarkType.MATRIX_MULTIPLICATION, BenchmarkType.TOKEN_GENERATION):
        measured = measure(naive, kind, 3)
        assert measured.seconds > 0
        assert measured.baseline_iterations >= 1
        assert measured.baseline_average > 0


def test_a_worker_that_ends_does_not_go_on(subject: Subject) -> None:
    with pytest.raises(JobCancelled):
        measure(subject, BenchmarkType.TOKEN_GENERATION, 3, stop=lambda: True)


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_both_multiply_the_same(n_tokens: int, subject: Subject) -> None:
    """The kernels round x to 8 bits: 1/254 of the largest of a block in each term, a percent of the sum's spread."""
    matrix = subject.weights.layers[0].ffn_up
    naive, kernels = NaiveMatmul(matrix, n_tokens), KernelMatmul(matrix, n_tokens, n_threads=1)
    kernels.out.array()[:] = 0
    assert kernels.run() > 0
    got = kernels.out.array().copy()
    kernels.close()
    assert np.abs(got - naive.out).max() < 0.05 * naive.out.std()
