"""BundleWatch: a bundle that is replaced on the disk is served without being asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from corral.serving.http.request_log import LOGGER
from corral.serving.http.served_bundle import BeingLoadedError
from corral.serving.http.service import Service


@dataclass(frozen=True)
class BundleWatch:
    """Looks again and again at what stands where the served bundle was read, and reloads when it is another.

    For replicas, which one request to reload does not all reach: each looks by itself, and after one ``seconds`` and
    the time of loading all serve the same. Until then answers say, as ever, which bundle made them.

    Attributes:
        published: the version that stands there; raises ValueError or OSError where none can be read.
        seconds: between two looks.
    """

    published: Callable[[], str]
    seconds: float

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds between two looks for a new bundle must be positive, got {self.seconds}")

    async def follow(self, service: Service) -> None:
        """Never returns: cancel it. A version that is refused is logged and not tried again; the old one goes on."""
        refused: str | None = None
        while True:
            await asyncio.sleep(self.seconds)
            try:
                published = await asyncio.to_thread(self.published)
            except (ValueError, OSError):  # as while it is being replaced; a reload that is asked for says why
                continue
            if published in (service.bundles.current.version, refused):
                continue
            try:
                await service.reload()
            except BeingLoadedError:
                continue
            except Exception as error:  # nothing ends the watch: the next bundle may be a good one
                refused = published
                LOGGER.error("bundle refused: %s", error)
