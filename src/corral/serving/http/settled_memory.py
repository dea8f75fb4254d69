"""settle_memory: what a server has loaded is left out of Python's searches for garbage, which hold every request up."""

from __future__ import annotations

import gc


def settle_memory() -> None:
    """Collects garbage once more, then sets all that is left apart from later searches.

    torch and a bundle are some hundred thousand objects that live as long as the process; to look through them takes
    0.1 s and more, during which no thread computes. Said again after a reload, it frees the old bundle.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def is_settled() -> bool:
    """Whether it was said in this process."""
    return gc.get_freeze_count() > 0
