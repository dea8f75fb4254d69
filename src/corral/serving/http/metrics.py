"""Metrics: what Prometheus is told of the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The service's own registry, so that several services may live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("corral_requests", "Requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "corral_request_seconds", "Time to answer.", ["route"], registry=registry, buckets=SECONDS
        )
        self.stages = Histogram(
            "corral_stage_seconds", "Time of a batch's stages.", ["stage"], registry=registry, buckets=SECONDS
        )
        self.batches = Histogram("corral_batch_users", "Lists made by one call.", registry=registry, buckets=USERS)
        self.events = Counter("corral_events", "Live events acknowledged.", registry=registry)
        self.impressions = Counter(
            "corral_impressions", "Served lists by what the log made of them.", ["result"], registry=registry
        )
        self.reloads = Counter("corral_reloads", "Reloads by result.", ["result"], registry=registry)
        self.loaded = Gauge(
            "corral_bundle_loaded_seconds", "Unix time when the bundle was loaded.", ["version"], registry=registry
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        began = time.perf_counter()
        yield
        self.stages.labels(name).observe(time.perf_counter() - began)

    def serving(self, version: str, loaded: float) -> None:
        """Notes the bundle that answers from now on."""
        self.loaded.clear()
        self.loaded.labels(version).set(loaded)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
