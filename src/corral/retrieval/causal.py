"""What SASRec and GRU4Rec share: sequences packed to the front, and queries at every position."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(items: Tensor) -> tuple[Tensor, Tensor]:
    """Moves front padding to the back, so that a causal mask alone keeps padding out of every real position.

    Args:
        items: item rows [B, L], 0-padded at the front.

    Returns:
        The items padded at the back [B, L], and how many paddings each row has [B].
    """
    pad = (items == 0).sum(1)
    slots = torch.arange(items.shape[1], device=items.device)
    return items.gather(1, (slots + pad[:, None]) % items.shape[1]), pad


def unpack(hidden: Tensor, pad: Tensor, empty: Tensor) -> Tensor:
    """Queries at every position from the states of packed items.

    Args:
        hidden: state after each packed item [B, L, D].
        pad: paddings of each row [B].
        empty: query of an empty history [D].

    Returns:
        [B, L + 1, D]: at j the state after the slots before j of the front-padded sequence, ``empty`` where
        all of them are padding.
    """
    batch, length, size = hidden.shape
    states = torch.cat([empty.expand(batch, 1, size), hidden], dim=1)
    seen = (torch.arange(length + 1, device=hidden.device) - pad[:, None]).clamp(min=0)
    return states.gather(1, seen[:, :, None].expand(-1, -1, size))
