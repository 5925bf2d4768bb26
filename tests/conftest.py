"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Models, vocabularies and golden files kept beside the project; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared test data is not present")
    return SHARED_DATA
