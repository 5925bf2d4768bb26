"""Fixtures for the kernels' tests."""

from collections.abc import Iterator

import kernel_memory
import pytest


@pytest.fixture(autouse=True)
def regions_live_as_long_as_their_test() -> Iterator[None]:
    yield
    kernel_memory.KEPT.clear()
