"""What SASRec and GRU4Rec share: sequences packed to the front, queries at every position or the last alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ROWS_PER_CHUNK = 64  # histories of like length together: little padding is computed


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


def last_queries(history: Tensor, encode: Callable[[Tensor, Tensor | None], Tensor], empty: Tensor) -> Tensor:
    """The query after the whole of each history, without work on padding.

    Args:
        history: item rows [B, L], 0-padded at the front.
        encode: (packed items [b, l], their number [b], at least 1; None: all l are real) -> queries [b, D].
        empty: query of an empty history [D].

    Returns:
        [B, D].
    """
    if history.numel() == 0:
        return empty.expand(len(history), -1)
    lengths = (history != 0).sum(1)
    if torch.compiler.is_compiling():  # lengths are not static: padding is computed too
        queries = encode(pack(history)[0], lengths.clamp(min=1))
        return torch.where(lengths[:, None] > 0, queries, empty.to(queries.dtype))
    if len(history) == 1 and not torch.is_grad_enabled():  # a request: all that orders and pads would only cost
        number = int(lengths)
        return encode(history[:, -number:], None) if number else empty.expand(1, -1)
    order = lengths.argsort(stable=True)
    parts = []
    for rows in order.split(_ROWS_PER_CHUNK):
        length = lengths[rows]
        longest = int(length[-1])
        if longest == 0:
            parts.append(empty.expand(len(rows), -1))
            continue
        packed, _ = pack(history[rows, -longest:])
        queries = encode(packed, length.clamp(min=1))
        parts.append(torch.where(length[:, None] > 0, queries, empty.to(queries.dtype)))
    return torch.cat(parts)[order.argsort()]
