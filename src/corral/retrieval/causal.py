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


def last_queries(
    history: Tensor,
    look_up: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, Tensor | None], Tensor],
    empty: Tensor,
) -> Tensor:
    """The query after the whole of each history, hardly any work on padding.

    Items are looked up once, whatever the histories are, and every query hangs on what was found: where a table is cut
    over several workers they look up together, and so do its gradients go back, but each has other histories.

    Args:
        history: item rows [B, L], 0-padded at the front.
        look_up: item rows [...] -> vectors [..., D].
        encode: (vectors of packed items [b, l, D], their number [b], at least 1; None: all l are real) -> queries
            [b, D].
        empty: query of an empty history [D].

    Returns:
        [B, D].
    """
    length = history.shape[1]
    if length == 0:
        return empty.expand(len(history), -1)
    lengths = (history != 0).sum(1)
    if torch.compiler.is_compiling():  # lengths are not static: padding is computed too
        return _or_empty(encode(look_up(pack(history)[0]), lengths.clamp(min=1)), lengths, empty)
    if len(history) == 1 and not torch.is_grad_enabled():  # a request: all that orders and pads would only cost
        number = int(lengths)
        vectors = look_up(history[:, length - number :])
        return encode(vectors, None) if number else empty.expand(1, -1)
    lengths, order = lengths.sort(stable=True)
    packed, _ = pack(history.index_select(0, order))
    parts = []
    # A chunk bounds what the encoder makes of its vectors, attention above all.
    for some, vectors in zip(lengths.split(_ROWS_PER_CHUNK), look_up(packed).split(_ROWS_PER_CHUNK), strict=True):
        number = some.clamp(min=1)
        longest = max(number.tolist(), default=1)  # of none where this worker has no row of the batch
        parts.append(_or_empty(encode(vectors[:, :longest], number), some, empty))
    return torch.cat(parts)[order.argsort()]


def _or_empty(queries: Tensor, lengths: Tensor, empty: Tensor) -> Tensor:
    """Queries [B, D], but ``empty`` [D] where the history has no items (lengths [B])."""
    return torch.where(lengths[:, None] > 0, queries, empty.to(queries.dtype))
