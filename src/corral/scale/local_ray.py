"""local_ray: a Ray on this machine alone, for one block of work; or the cluster that is there already."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# To be "0" before Ray is loaded: it then listens on the loopback address alone. Else it takes the machine's own,
# whatever address it is told.
_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Nothing is reported; Serve's proxy may take its time to start where the machine is busy; and workers do not come
# last (15, Ray's own choice), which is for ever there.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_worker_niceness": "0",
}
# Of ids and lists; events do not pass through it. Ray Data keeps room for several blocks a task, and waits for ever
# where the store is smaller: hence small blocks.
_STORE_BYTES, _BLOCK_BYTES = 1 << 30, 8 << 20


@contextmanager
def local_ray(cpus: int | None = None) -> Iterator[int]:
    """Starts Ray with its address 127.0.0.1 and stops it when the block ends.

    Where RAY_ADDRESS names a cluster, or the program has started Ray, that one is used and left as it is. A cluster's
    machines must see data sets and bundles at the same paths.

    Args:
        cpus: how many tasks run at once; None: as many as there are processors.

    Yields:
        How many processors Ray has.

    Raises:
        ModuleNotFoundError: Ray is not installed (``pip install 'corral[scale]'``).
        RuntimeError: Ray was imported before, so that it would listen to other machines.
    """
    address = os.environ.get("RAY_ADDRESS")
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if address is None:
        if "ray" in sys.modules and _CLUSTER not in os.environ and not sys.modules["ray"].is_initialized():
            raise RuntimeError(f"ray was imported before local_ray began: set {_CLUSTER}=0 before you import it")
        os.environ.setdefault(_CLUSTER, "0")
    import ray
    import ray.data  # which sets its loggers up

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.target_max_block_size = False, _BLOCK_BYTES
    started = not ray.is_initialized()
    if started and address is not None:
        ray.init(log_to_driver=False)
    elif started:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_STORE_BYTES,
            logging_level=logging.WARNING,
        )
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        if started:
            ray.shutdown()
