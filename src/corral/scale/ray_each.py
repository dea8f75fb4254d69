"""ray_each: the tasks of preparing a Dataset, run by Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def ray_each(work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """Calls ``work`` for every task in Ray's workers; an ``Each`` for ``prepare_dataset``.

    A task whose worker dies is run again by Ray.

    Args:
        work: a function that Ray can send to its workers.
        tasks: its arguments.

    Returns:
        The results, in the tasks' order.

    Raises:
        ValueError, OSError: what the first task that failed raised.
    """
    import ray

    # Sent once, not with every task.
    sent = ray.put((work, list(tasks)))

    def run(row: dict[str, Any]) -> dict[str, Any]:
        function, arguments = ray.get(sent)
        try:
            return {"place": row["place"], "result": [function(arguments[row["place"]])], "error": [None]}
        except (ValueError, OSError) as error:  # Ray would hand over its text alone
            return {"place": row["place"], "result": [None], "error": [error]}

    places = ray.data.from_items([{"place": place} for place in range(len(tasks))], override_num_blocks=len(tasks))
    rows = sorted(places.map(run).take_all(), key=lambda row: row["place"])
    for row in rows:
        if row["error"][0] is not None:
            raise row["error"][0]
    return [row["result"][0] for row in rows]
