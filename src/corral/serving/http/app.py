"""make_app: the service as an ASGI application, its endpoints and what they answer when they refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer

from corral import __version__
from corral.serving.http.answers import (
    BundleAnswer,
    EventsAnswer,
    PredictAnswer,
    Problem,
    RecommendAnswer,
    SimilarAnswer,
    StateAnswer,
)
from corral.serving.http.bodies import EventsBody, PredictBody, RecommendBody, SimilarBody, faults
from corral.serving.http.body_limit import BodyLimit
from corral.serving.http.bundle_watch import BundleWatch
from corral.serving.http.checks import RefusedError
from corral.serving.http.impression_log import ImpressionLog
from corral.serving.http.limits import Limits
from corral.serving.http.live_events import LiveEvents, StoreError
from corral.serving.http.metrics import Metrics
from corral.serving.http.micro_batches import BusyError
from corral.serving.http.request_log import LOGGER, RequestLog
from corral.serving.http.served_bundle import BeingLoadedError, BundleRefusedError, ServedBundle
from corral.serving.http.service import Service
from corral.serving.http.tokens import BearerTokens

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    408: {"model": Problem, "description": "The body came too slowly."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The body says what cannot be; `detail` says where."},
    503: {"model": Problem, "description": "Too busy, too slow, or without its store; try again (Retry-After)."},
}
DAMAGED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "A reload is under way, or the bundle was refused: the old one stays."}
}
UNAUTHORISED: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": "Without a known token."}}


def make_app(
    bundles: ServedBundle,
    events: LiveEvents,
    *,
    tokens: Sequence[str] = (),
    limits: Limits | None = None,
    impressions: ImpressionLog | None = None,
    watch: BundleWatch | None = None,
) -> FastAPI:
    """The application. Its OpenAPI document is at ``/openapi.json``.

    Args:
        bundles: what answers.
        events: where live events are kept; the caller closes it.
        tokens: bearer tokens, any of which is needed for everything but health and readiness; none = open to all.
        limits: of size, time and waiting.
        impressions: where served lists are logged, with the ids of users; the caller closes it. None: nowhere.
        watch: for new bundles; None: they are loaded when a request asks for it.

    Whoever adds pages to the application finds the ``Service`` at ``app.state.service``.
    """
    limits, metrics = limits or Limits(), Metrics()
    service = Service(bundles, events, limits, metrics, impressions)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = None if watch is None else asyncio.create_task(watch.follow(service))
        yield
        if following is not None:
            following.cancel()
        await service.logged()
        service.close()

    # The pages that FastAPI makes of its document load scripts from elsewhere.
    app = FastAPI(
        title="corral", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, responses=REFUSALS
    )
    app.state.service = service
    _answer_errors(app)
    app.add_middleware(BodyLimit, most_bytes=limits.body_bytes, seconds=limits.seconds)
    if tokens:
        app.add_middleware(BearerTokens, tokens=tokens)
    app.add_middleware(RequestLog, metrics=metrics)
    guarded: dict[str, Any] = {}
    if tokens:
        # For the document alone: the middleware has refused by then.
        guarded = {"dependencies": [Depends(HTTPBearer(auto_error=False))], "responses": UNAUTHORISED}

    @app.post("/v1/recommend", **guarded)
    async def recommend(body: RecommendBody) -> RecommendAnswer:
        """The best items for each user, by what is known of them up to now."""
        return await service.recommend(body)

    @app.post("/v1/predict", **guarded)
    async def predict(body: PredictBody) -> PredictAnswer:
        """What the ranker says of (user, item) pairs."""
        return await service.predict(body)

    @app.post("/v1/similar-items", **guarded)
    async def similar_items(body: SimilarBody) -> SimilarAnswer:
        """The items whose retriever vectors are most similar."""
        return await service.similar_items(body)

    @app.post("/v1/similar-users", **guarded)
    async def similar_users(body: SimilarBody) -> SimilarAnswer:
        """The users whose query vectors, as of the bundle's latest event, are most similar."""
        return await service.similar_users(body)

    @app.post("/v1/events", **guarded)
    async def append(body: EventsBody) -> EventsAnswer:
        """Keep what users did; the next answers know it. Send again what was not acknowledged."""
        return await service.append(body)

    @app.get("/v1/bundle", **guarded)
    async def bundle() -> BundleAnswer:
        """What is served."""
        return service.bundle()

    @app.post("/v1/reload", **{**guarded, "responses": {**guarded.get("responses", {}), **DAMAGED}})
    async def reload() -> BundleAnswer:
        """Serve the bundle that now stands where the served one was read; no other request notices."""
        return await service.reload()

    @app.get("/health")
    async def health() -> StateAnswer:
        """The process answers."""
        return StateAnswer(state="ok")

    @app.get("/ready")
    async def ready() -> StateAnswer:
        """Requests can be answered: a bundle is loaded and the store of live events answers."""
        await service.check()
        return StateAnswer(state="ready")

    @app.get("/metrics", response_class=Response, **guarded)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _answer_errors(app: FastAPI) -> None:
    """Every refusal is a ``Problem``."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, faults(error.errors()))

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return _problem(422, str(error))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return _problem(503, "too many requests are waiting; try again", retry=True)

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> JSONResponse:
        return _problem(503, "no answer in time; ask for less, or try again", retry=True)

    @app.exception_handler(StoreError)
    async def storeless(request: Request, error: StoreError) -> JSONResponse:
        LOGGER.error("live events: %s", error)
        return _problem(503, "the store of live events does not answer; try again", retry=True)

    @app.exception_handler(BeingLoadedError)
    async def loading(request: Request, error: BeingLoadedError) -> JSONResponse:
        return _problem(409, "a bundle is being loaded; try again", retry=True)

    @app.exception_handler(BundleRefusedError)
    async def damaged(request: Request, error: BundleRefusedError) -> JSONResponse:
        LOGGER.error("bundle refused: %s", error)
        return _problem(409, f"the bundle was refused, the old one goes on: {error}")

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, "an error of the service; its log says where")


def _problem(status: int, detail: str, retry: bool = False) -> JSONResponse:
    # A lone surrogate, which JSON allows, has no bytes.
    text = detail.encode("utf-8", "replace").decode()
    return JSONResponse({"detail": text}, status, {"retry-after": "1"} if retry else None)
