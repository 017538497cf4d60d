"""Fixtures for every package's tests."""

from __future__ import annotations

import pytest

from tests.exported import Exported


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Tiny bundles, each exported when first asked for."""
    return Exported(tmp_path_factory.mktemp("exported"))
