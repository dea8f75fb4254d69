"""corral studio: one user's list, taken apart and changed, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def studio(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A bundle, or a run that holds one; more of them to compare with.", show_default=False),
    ],
    port: Annotated[int, typer.Option(help="0: any free one; the log says which.", min=0, max=65535)] = 8000,
    events: Annotated[
        str | None,
        typer.Option(
            help="Where users' live events are kept, see corral serve; if not given, BUNDLE.events.sqlite.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to answer a page, at most.")] = 30.0,
    device: Annotated[str, typer.Option(help="Where the models run: cpu, cuda ...")] = "cpu",
) -> None:
    """Look into the list of any user, at http://127.0.0.1:PORT/studio: history, candidates, who was consulted, why.

    Leave out a part of the history or a look-alike, change the number of candidates, and see the list change; with
    several runs, compare two of them for the same user. It is the service of corral serve, on this machine alone.

    Examples:

        corral studio runs/demo

        corral studio runs/rar runs/demo
    """
    import torch

    from corral.cli.serve import LOOPBACK, event_store, guard, listen, service_app
    from corral.report.page import chart_library
    from corral.serving.http.limits import Limits
    from corral.serving.http.request_log import log_to_stderr

    torch.set_num_threads(1)
    log_to_stderr()
    store = event_store(events, runs[0], timeout)
    try:
        app = service_app(runs[0], store, limits=Limits(seconds=timeout), device=device, beside=runs[1:])
        guard(app)
        # A person waits for the first page: what takes seconds is made before.
        chart_library()
        if port:
            print(f"http://{LOOPBACK[0]}:{port}/studio", flush=True)
        listen(app, LOOPBACK[0], port, timeout)
    finally:
        store.close()
