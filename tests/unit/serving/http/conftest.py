"""A service over the small system, for the tests of the endpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from small_service import SmallService


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    """A service of its own for a test; ``service.client()`` asks it."""
    small = SmallService(tmp_path / "events.sqlite")
    yield small
    small.close()


@pytest.fixture
def client(service: SmallService) -> Iterator[TestClient]:
    """Asks a service without tokens and with the limits of the default."""
    with service.client() as client:
        yield client
