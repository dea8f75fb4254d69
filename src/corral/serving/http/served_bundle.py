"""ServedBundle: the bundle that answers, replaced whole by the next one or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from torch import nn

from corral.ranking.fields import Fields
from corral.rar.ranker import RarRanker
from corral.serving.http.request_features import RequestFeatures
from corral.serving.manifest import Manifest
from corral.serving.recommender import TwoStageRecommender


@dataclass(frozen=True)
class LoadedBundle:
    """A recommender, and where it comes from.

    Attributes:
        recommender: answers.
        manifest: of the bundle it was loaded from.
        loaded: when, UTC.
        modules: the recommender that runs the models by torch, for who looks into them, where another one answers.
    """

    recommender: TwoStageRecommender
    manifest: Manifest
    loaded: datetime = field(default_factory=lambda: datetime.now(UTC))
    modules: TwoStageRecommender | None = None

    @cached_property
    def features(self) -> RequestFeatures:
        """What requests must bring for its ranker."""
        return RequestFeatures.of(self.recommender.ranker)

    @cached_property
    def version(self) -> str:
        """Of the bundle it was loaded from; see ``Manifest``."""
        return self.manifest.version

    def warm(self) -> None:
        """One answer of each kind, so that no request pays for what is encoded once."""
        ranker = self.recommender.ranker
        for part in ranker.modules() if isinstance(ranker, nn.Module) else ():
            if isinstance(part, RarRanker):
                part.precompute()
            if isinstance(part, Fields):
                part.catalogue.precompute()
        nobody = [None]
        features = self.features.tensors([dict.fromkeys(self.features.names)])
        self.recommender.recommend(nobody, 1, features=features, explain=True)
        self.recommender.similar_items(nobody, 1)
        self.recommender.similar_users(nobody, 1)


class BeingLoadedError(Exception):
    """Another bundle is being loaded just now."""


class BundleRefusedError(Exception):
    """The bundle on the disk is damaged, or gone; the text says which file."""


class ServedBundle:
    """Holds the bundle that answers.

    A request takes ``current`` once and keeps to it, so a swap disturbs nobody. While the next bundle is read,
    both are in memory.

    Args:
        load: reads and checks the bundle; raises ValueError or OSError where it is damaged or gone.

    Raises:
        ValueError, OSError: the first bundle cannot be loaded.
    """

    def __init__(self, load: Callable[[], LoadedBundle]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self.current = self._loaded()

    def _loaded(self) -> LoadedBundle:
        bundle = self._load()
        bundle.warm()
        return bundle

    def reload(self) -> LoadedBundle:
        """Reads the bundle again and lets it answer from now on; if this fails, the old one stays.

        Raises:
            BeingLoadedError: a reload is under way.
            BundleRefusedError: it was refused.
        """
        if not self._loading.acquire(blocking=False):
            raise BeingLoadedError
        try:
            self.current = self._loaded()
        except Exception as error:  # whatever a bundle of another version, or a full memory, may raise
            raise BundleRefusedError(str(error) or type(error).__name__) from error
        finally:
            self._loading.release()
        return self.current
