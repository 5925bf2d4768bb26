"""The names that kernels import, and what they stand for."""

import pytest
from numba.core.extending import _Intrinsic

from woolly_worker.kernels import simd
from woolly_worker.kernels.jit import Deferred


@pytest.mark.parametrize("word", sorted(simd._HOME))
def test_every_word_is_a_verb(word: str) -> None:
    deferred = getattr(simd, word)
    assert isinstance(deferred, Deferred)
    assert deferred is getattr(simd, word)
    assert isinstance(deferred.real, _Intrinsic)


def test_other_names_are_an_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'load_i33'"):
        from woolly_worker.kernels.simd import load_i33  # noqa: F401
