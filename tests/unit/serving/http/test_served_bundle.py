"""ServedBundle: the next bundle whole, or the old one."""

from __future__ import annotations

import threading

import pytest
from small_service import SmallService

from corral.serving.http.served_bundle import BeingLoadedError, BundleRefusedError, LoadedBundle, ServedBundle


def test_a_bundle_that_cannot_be_loaded_stops_the_start() -> None:
    def load() -> LoadedBundle:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        ServedBundle(load)


def test_what_fails_while_it_is_warmed_is_not_served(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> None:
    old = service.bundles.current

    def diverged(bundle: LoadedBundle) -> None:
        raise ValueError("NaN for an item to be ranked")

    monkeypatch.setattr(LoadedBundle, "warm", diverged)
    with pytest.raises(BundleRefusedError, match="NaN"):
        service.bundles.reload()
    assert service.bundles.current is old
    monkeypatch.undo()
    assert service.bundles.reload() is service.bundles.current is not old


def test_one_reload_at_a_time(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(bundle: LoadedBundle) -> None:
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(LoadedBundle, "warm", slow)
    first = threading.Thread(target=service.bundles.reload)
    first.start()
    assert begun.wait(10)
    with pytest.raises(BeingLoadedError):
        service.bundles.reload()
    go_on.set()
    first.join()
    service.bundles.reload()


def test_item_and_user_vectors_are_encoded_when_loaded(service: SmallService) -> None:
    recommender = service.bundles.current.recommender
    before = recommender.retriever.calls  # type: ignore[attr-defined]
    recommender.similar_items(["i01"], 3)
    recommender.similar_users(["u03"], 3)
    assert recommender.retriever.calls == before  # type: ignore[attr-defined]


def test_the_version_changes_with_any_file(service: SmallService) -> None:
    old = service.bundles.current.version
    assert service.bundles.reload().version == old
    service.seed = 1
    assert service.bundles.reload().version != old
