"""corral serve: a bundle behind HTTP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi import FastAPI

    from corral.serving.http.impression_log import ImpressionLog
    from corral.serving.http.limits import Limits
    from corral.serving.http.live_events import LiveEvents
    from corral.serving.http.served_bundle import LoadedBundle

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKENS = "CORRAL_TOKENS"
# Between a replica's looks for a new bundle, where nobody says.
WATCH_SECONDS = 1.0


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a run directory that holds one.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0: any free one; the log says which.", min=0, max=65535)] = 8000,
    events: Annotated[
        str | None,
        typer.Option(
            help="Where users' live events are kept: a file (SQLite), or redis://HOST:PORT/NUMBER "
            "(default: BUNDLE.events.sqlite, beside the bundle).",
            show_default=False,
        ),
    ] = None,
    impressions: Annotated[
        Path | None,
        typer.Option(
            help="Log served lists, with the ids of users, into files of this directory (default: not at all).",
            show_default=False,
        ),
    ] = None,
    time_unit: Annotated[
        str, typer.Option(help="With --impressions: the data set's unit, for requests that name no time.")
    ] = "seconds",
    tokens: Annotated[
        Path | None,
        typer.Option(
            help=f"File of bearer tokens, one a line; or set {TOKENS} (default: none needed).", show_default=False
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to answer a request, at most.")] = 5.0,
    max_body: Annotated[int, typer.Option(help="Bytes of a request's body, at most.")] = 1 << 20,
    max_waiting: Annotated[int, typer.Option(help="Lists waiting to be made; beyond it the answer is 503.")] = 2_000,
    gather_ms: Annotated[
        float,
        typer.Option(
            help="Milliseconds an idle server waits for more requests; those that come while it computes are "
            "answered together anyway."
        ),
    ] = 0.0,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda ...")] = "cpu",
    replicas: Annotated[
        int, typer.Option(help="Processes that answer, behind Ray Serve (corral\\[scale]) where more than one.", min=1)
    ] = 1,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="Run the models by ONNX Runtime, from what corral export wrote of this bundle (default: by torch).",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            help="Look so often, in seconds, whether the bundle was replaced, and serve the new one (default: when "
            "POST /v1/reload asks for it; with --replicas, whom one request does not all reach, every second).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Answer requests over HTTP: recommend, predict, similar items and users, live events, reload.

    The log, a line of JSON a request, goes to stderr and says nothing of users; --impressions, asked for, logs who was
    shown what, for corral data append. The API's description is at
    /openapi.json, figures for Prometheus at /metrics, the studio for people at /studio. One server uses one core.
    """
    import torch

    from corral.serving.http.impression_log import ImpressionLog
    from corral.serving.http.limits import Limits
    from corral.serving.http.request_log import log_to_stderr

    known = _tokens(tokens)
    if onnx is not None and device != "cpu":
        raise ValueError(f"--onnx runs on the CPU, --device {device} does not: leave one of them out")
    if host not in LOOPBACK and not known:
        raise ValueError(f"--host {host} opens the service to others: say who may use it with --tokens FILE")
    limits = Limits(body_bytes=max_body, seconds=timeout, waiting_users=max_waiting, gather_seconds=gather_ms / 1000.0)
    if replicas > 1:
        if port == 0:
            raise ValueError("--port 0 is not for --replicas: say which port Ray Serve takes")
        if impressions is not None:
            raise ValueError("--impressions is not for --replicas: serve from one process each, on ports of their own")
        make = partial(_replica, bundle, events, known, limits, device, onnx, WATCH_SECONDS if watch is None else watch)
        _serve_replicas(make, replicas, host, port, timeout)
        return
    torch.set_num_threads(1)
    log_to_stderr()
    shown = None if impressions is None else ImpressionLog(impressions, time_unit=time_unit)
    store = event_store(events, bundle, timeout)
    try:
        app = service_app(bundle, store, known, limits, device, onnx=onnx, impressions=shown, watch=watch)
        guard(app, known)
        listen(app, host, port, timeout)
    finally:
        store.close()
        if shown is not None:
            shown.close()


def _replica(
    bundle: Path,
    events: str | None,
    tokens: tuple[str, ...],
    limits: Limits,
    device: str,
    onnx: Path | None,
    watch: float,
) -> FastAPI:
    """The service in a process of its own, which shares the live events with the others."""
    from corral.serving.http.settled_memory import settle_memory

    store = event_store(events, bundle, limits.seconds)
    app = service_app(bundle, store, tokens, limits, device, onnx=onnx, watch=watch)
    guard(app, tokens)
    settle_memory()
    return app


def _serve_replicas(make: Callable[[], FastAPI], replicas: int, host: str, port: int, timeout: float) -> None:
    """Serves until it is stopped; the replicas' logs are where Ray keeps its own."""
    import signal
    import sys
    import threading

    from corral.scale.local_ray import local_ray
    from corral.scale.ray_serve import serve_on_ray

    with local_ray(replicas), serve_on_ray(make, replicas=replicas, host=host, port=port, seconds=timeout) as address:
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        print(f"{replicas} replicas answer at {address}", file=sys.stderr, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr, flush=True)


def guard(app: FastAPI, tokens: tuple[str, ...] = ()) -> None:
    """Keeps the pages of others out of a service that needs no tokens; see ``OwnNames``."""
    from corral.serving.http.own_names import OwnNames

    if not tokens:
        app.add_middleware(OwnNames, names=LOOPBACK)


def listen(app: FastAPI, host: str, port: int, timeout: float) -> None:
    """Serves until it is stopped."""
    import uvicorn

    from corral.serving.http.settled_memory import settle_memory

    settle_memory()
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # it would hold what clients write into paths
        server_header=False,
        timeout_graceful_shutdown=round(2 * timeout) + 1,
    )


def service_app(
    bundle: Path,
    store: LiveEvents,
    tokens: tuple[str, ...] = (),
    limits: Limits | None = None,
    device: str = "cpu",
    beside: Sequence[Path] = (),
    onnx: Path | None = None,
    impressions: ImpressionLog | None = None,
    watch: float | None = None,
) -> FastAPI:
    """The service of a bundle, or of a run directory that holds one, as an ASGI application.

    With the studio, where what draws its charts is installed (``corral[report]``).

    Args:
        bundle: what is served.
        store: where live events are kept.
        tokens: who may ask; see ``make_app``.
        limits: likewise.
        device: where the models run.
        beside: bundles that the studio may compare with; asked for, the studio is not optional.
        onnx: an export of the bundle, to run its models from; the studio looks into the bundle's own, run by torch.
        impressions: where served lists are logged; see ``make_app``.
        watch: seconds between two looks whether the bundle was replaced; None: a request asks for a reload.

    Raises:
        ModuleNotFoundError: there is something to compare, but no ``corral[report]``.
        ValueError: there is no bundle, or it is damaged.
    """
    from importlib.util import find_spec

    from corral.cli.run import bundle_folder
    from corral.cli.run_files import run_names
    from corral.serving.http.app import make_app
    from corral.serving.http.bundle_watch import BundleWatch
    from corral.serving.http.served_bundle import ServedBundle
    from corral.serving.manifest import read_manifest
    from corral.studio.routes import mount_studio

    def served(path: Path, onnx: Path | None = None) -> ServedBundle:
        return ServedBundle(lambda: _load(path, device, onnx))

    def published() -> str:
        return read_manifest(bundle_folder(bundle)).version

    following = None if watch is None else BundleWatch(published, watch)
    app = make_app(served(bundle, onnx), store, tokens=tokens, limits=limits, impressions=impressions, watch=following)
    if beside or (find_spec("altair") is not None and find_spec("vl_convert") is not None):
        name, *others = run_names([bundle, *beside])
        mount_studio(app, name, {other: served(path) for other, path in zip(others, beside, strict=True)})
    return app


def _load(path: Path, device: str, onnx: Path | None) -> LoadedBundle:
    """The bundle as it is now."""
    from corral.cli.run import bundle_folder, open_recommender
    from corral.serving.http.served_bundle import LoadedBundle
    from corral.serving.manifest import read_manifest

    folder = bundle_folder(path)
    manifest = read_manifest(folder)
    recommender = open_recommender(path, device)
    if read_manifest(folder) != manifest:
        raise ValueError(f"{folder}: was replaced while it was read; reload again")
    if onnx is None:
        return LoadedBundle(recommender, manifest)
    from corral.serving.onnx.runtime import run_by_onnx

    return LoadedBundle(run_by_onnx(recommender, onnx, manifest.version), manifest, modules=recommender)


def _tokens(file: Path | None) -> tuple[str, ...]:
    import os

    from corral.serving.http.tokens import read_tokens

    if file is not None:
        return read_tokens(file.read_text(encoding="utf-8"), str(file))
    return read_tokens(os.environ[TOKENS], TOKENS) if TOKENS in os.environ else ()


def event_store(events: str | None, bundle: Path, timeout: float) -> LiveEvents:
    """Where live events are kept: in a file, in Redis, or beside the bundle."""
    from corral.serving.http.redis_events import RedisEvents
    from corral.serving.http.sqlite_events import SqliteEvents

    if events is not None and events.startswith(("redis://", "rediss://")):
        return RedisEvents.at(events, timeout)
    return SqliteEvents(default_events(bundle) if events is None else Path(events))


def default_events(bundle: Path) -> Path:
    """Where live events are kept if nobody says where: beside the bundle."""
    return Path(f"{bundle.absolute()}.events.sqlite")
