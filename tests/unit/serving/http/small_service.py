"""SmallService: the small system behind HTTP, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
from fastapi.testclient import TestClient
from small_system import small_system

from corral.data.features import FeatureTable
from corral.serving.http.app import make_app
from corral.serving.http.limits import Limits
from corral.serving.http.served_bundle import LoadedBundle, ServedBundle
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.manifest import Manifest

LATER = 10_000  # than every event of the small system


class SmallService:
    """What a test may look into: the bundle that is loaded next (``seed``), the store, the application.

    Args:
        path: of the live events.
    """

    def __init__(self, path: Path) -> None:
        self.seed = 0
        self.failure: Exception | None = None
        self.store = SqliteEvents(path)
        self.bundles = ServedBundle(self._load)

    def _load(self) -> LoadedBundle:
        if self.failure is not None:
            raise self.failure
        manifest = Manifest("0", {}, {"name": "small"}, {"seed": {"sha256": str(self.seed)}})
        system = small_system(seed=self.seed)
        items = system.tables.items
        genres = pl.DataFrame({"item_id": items.ids.to_pylist(), "genre": ["g1", "g2", None] * 10, "price": [1.5] * 30})
        features = FeatureTable.build(genres, "item_id", items)
        system.tables = replace(system.tables, item_features=features)
        return LoadedBundle(system.recommender(num_candidates=12), manifest)

    def client(self, tokens: Sequence[str] = (), limits: Limits | None = None) -> TestClient:
        """A client; an error inside the service becomes the answer 500, as it would be for anybody."""
        app = make_app(self.bundles, self.store, tokens=tokens, limits=limits)
        return TestClient(app, raise_server_exceptions=False)

    def close(self) -> None:
        """Closes the store."""
        self.store.close()
