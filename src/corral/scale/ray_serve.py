"""serve_on_ray: the service as several replicas behind Ray Serve's proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

APPLICATION = "corral"


@contextmanager
def serve_on_ray(make: Callable[[], Any], *, replicas: int, host: str, port: int, seconds: float) -> Iterator[str]:
    """Serves an ASGI application from several processes while the block runs.

    Args:
        make: makes the application, once in each replica; one that Ray can send there.
        replicas: how many there are, one processor each.
        host: address to listen on.
        port: of the proxy.
        seconds: a request may take.

    Yields:
        The address.
    """
    from ray import serve

    def build() -> Any:
        import torch

        torch.set_num_threads(1)
        return make()

    options = {"host": host, "port": port, "request_timeout_s": 2 * seconds}
    serve.start(proxy_location="HeadOnly", http_options=options)
    deployment = serve.deployment(
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1},
        # Lists of requests that come at once are made together within a replica.
        max_ongoing_requests=100,
        logging_config={"enable_access_log": False},
    )(serve.ingress(build)())
    try:
        serve.run(deployment.bind(), name=APPLICATION, route_prefix="/")
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()
