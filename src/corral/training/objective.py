"""What ``fit`` minimises: a module that turns a batch into named scalar losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Objective(Protocol):
    """A plain ``nn.Module`` holding the models it trains, with these methods."""

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Named scalars; "total" is minimised, the others are logged."""
        ...

    def refresh(self) -> None:
        """Rebuilds what is derived from the weights (samplers, indexes); called by ``fit`` on its schedule.

        What it builds must be in ``state_dict()``, as buffers: a training that resumes between two refreshes
        goes on with what the last one built.
        """
        ...

    def generators(self) -> Mapping[str, torch.Generator]:
        """The random generators it draws from, by name, so that a checkpoint can hold their state."""
        ...


@runtime_checkable
class Renewing(Protocol):
    """A part of an objective that is judged and served with what it derives from its weights, as RAR's neighbours."""

    def renew(self) -> None:
        """Derives it from the weights as they are now; the next refresh, if no step comes between, need not."""
        ...


def renew(module: nn.Module) -> None:
    """Renews every such part; ``fit`` does so before it validates, and when training ends without."""
    if isinstance(module, Renewing):
        module.renew()
        return
    for child in module.children():
        renew(child)
