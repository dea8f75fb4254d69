"""settle_memory: nothing that is loaded is looked through again, and a reload still frees the old bundle."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from small_service import SmallService

from corral.serving.http.settled_memory import is_settled, settle_memory


@pytest.fixture
def settled() -> Iterator[None]:
    assert not is_settled()
    settle_memory()
    yield
    gc.unfreeze()


def test_what_was_there_is_left_out_of_later_searches(service: SmallService, settled: None) -> None:
    assert is_settled()
    assert not any(one is service.bundles.current for one in gc.get_objects())


def test_a_reload_frees_the_old_bundle_even_from_a_circle(service: SmallService) -> None:
    with service.client() as client:
        old = service.bundles.current
        old.recommender.specs["self"] = old.recommender  # type: ignore[assignment]
        gone = weakref.ref(old.recommender)
        del old
        settle_memory()
        try:
            assert client.post("/v1/reload").status_code == 200
            assert gone() is None
            assert is_settled()
        finally:
            gc.unfreeze()
