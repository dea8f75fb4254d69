"""ray_each: the tasks of preparing a Dataset, run by Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def ray_each(work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """Calls ``work`` for every task in Ray's workers; an ``Each`` for ``prepare_dataset``.

    A task whose worker dies is run again by Ray; its error, where it raises one, ends the whole.

    Args:
        work: a function that Ray can send to its workers.
        tasks: its arguments.

    Returns:
        The results, in the tasks' order.
    """
    import ray
    from ray.exceptions import RayTaskError

    # Sent once, not with every task.
    sent = ray.put((work, list(tasks)))

    def run(row: dict[str, Any]) -> dict[str, Any]:
        function, arguments = ray.get(sent)
        return {"place": row["place"], "result": [function(arguments[row["place"]])]}

    places = ray.data.from_items([{"place": place} for place in range(len(tasks))], override_num_blocks=len(tasks))
    try:
        rows = places.map(run).take_all()
    except RayTaskError as error:
        cause = _first_cause(error)
        raise cause from error
    return [row["result"][0] for row in sorted(rows, key=lambda row: row["place"])]


def _first_cause(error: BaseException) -> BaseException:
    """What a task raised, without what Ray put around it; an error of Ray's own as it is."""
    found = error
    while True:
        inner = getattr(found, "cause", None) or found.__cause__
        if not isinstance(inner, BaseException):
            return found
        found = inner
