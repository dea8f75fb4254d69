"""evaluation_mode: models without dropout for a while, wherever they are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def _modules(part: object) -> Iterator[nn.Module]:
    """All modules of a model, or of the models that a channel holds."""
    if isinstance(part, nn.Module):
        # Not modules(), which makes a name for each: every served request comes by here.
        waiting: list[nn.Module | None] = [part]
        while waiting:
            if (module := waiting.pop()) is not None:
                yield module
                waiting.extend(module._modules.values())
        return
    held = [getattr(part, name, None) for name in ("retriever", "channel")]
    for inner in (*held, *getattr(part, "channels", ())):
        if inner is not None:
            yield from _modules(inner)


@contextmanager
def evaluation_mode(*parts: object) -> Iterator[None]:
    """Modules without dropout inside, each submodule's own training flag restored after.

    A recall channel is no module: the retriever that it holds is found, also inside a channel that holds others.
    """
    # Setting an attribute of a module is slow: one that serves is in eval mode already.
    training = [module for part in parts for module in _modules(part) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
