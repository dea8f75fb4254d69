"""Draws from weighted choices by inversion of their cumulative sums."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_cdf(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """Choices in proportion to weights; log K steps a draw.

    A choice of weight 0 is never drawn: the first cumulative sum above a number below the total is taken,
    and rounding cannot lift that number to the total.

    Args:
        cumulative: cumulative sums of the weights [..., K], non-negative, not all 0; any scale.
        uniform: numbers in [0, 1) of the same dtype [..., n]; leading shape as ``cumulative``'s, which may
            also be [K] alone.

    Returns:
        Choices [..., n], int64 in 0..K-1. Weights that are not numbers give a choice of no meaning.
    """
    total = cumulative[..., -1:]
    mark = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    # The clamp matters for NaN only: a diverged training is reported by its loss, not by an index out of range.
    return torch.searchsorted(cumulative, mark, right=True).clamp(max=cumulative.shape[-1] - 1)
