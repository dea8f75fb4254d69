"""Training negatives with the log-probability of drawing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Items drawn with replacement for each query.

    Attributes:
        items: item rows [B, N], int64.
        log_q: natural log of the **normalised** probability of each draw [B, N]; 0 from samplers that say
            ``normalised = False``.
    """

    items: Tensor
    log_q: Tensor


@runtime_checkable
class Sampler(Protocol):
    """A proposal distribution over the item rows of a catalogue [M], given a query.

    The samplers of this package are plain ``nn.Module``s: what ``refresh`` or a batch changes is in buffers,
    so that the ``state_dict()`` of an objective that holds one is enough to go on between two refreshes.
    What follows from the constructor's arguments is not in it.

    Attributes:
        normalised: exp(log_q) sums to 1 over the catalogue and is what the draws follow. False for samplers
            that are uncorrected, hence biased, on purpose: their log_q is 0.
    """

    normalised: bool

    def refresh(self, item_vectors: Tensor) -> None:
        """Takes new vectors [M, D] of the catalogue, in its order; a no-op where the proposal does not use them.

        A sampler that needs them raises RuntimeError when it is asked before its first refresh.
        """
        ...

    def observe(self, items: Tensor) -> None:
        """Takes the clicked items [...] of a training batch, before it draws for it; a no-op for most."""
        ...

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n independent draws, with replacement, for each query vector [B, D]; carries no gradient."""
        ...

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of drawing ``items`` [B, N] for each query [B, N]; -inf outside the catalogue."""
        ...


def check_certain(sampler: Sampler, certain: bool, *, name: str = "certain") -> None:
    """Whether the sampler can serve a loss that takes the clicked item as present with certainty.

    Its -log N, for log Q(i+), is on the scale of a normalised log Q alone.

    Args:
        sampler: the proposal.
        certain: whether the loss does so.
        name: of that option.

    Raises:
        ValueError: it does, and the sampler is not ``normalised``.
    """
    if certain and not sampler.normalised:
        raise ValueError(
            f"{name}: needs a normalised log Q, and {type(sampler).__name__} has no log-probabilities to correct its "
            "draws by"
        )
