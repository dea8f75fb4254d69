"""Queries at chosen positions of whole sequences: for a ranker beside a causal retriever."""

from __future__ import annotations

import torch
from torch import Tensor

from corral.data.batches import Query, SequenceBatch
from corral.data.whole_batch import largest


def queries_at(sequence: SequenceBatch, row: Tensor, slot: Tensor, length: int) -> Query:
    """The query that may predict slot ``slot`` of sequence ``row``, for P positions.

    The history is what the window holds before the position, under the window's history rule; nothing
    outside the window is looked up.

    Args:
        sequence: B sequences of L slots.
        row: [P], int64.
        slot: [P], int64.
        length: longest history; fewer columns are returned where no position has that many.
    """
    end = sequence.query_index[row, slot]
    first = (sequence.items == 0).sum(1)[row]
    width = min(length, int((end - first).max()) if len(end) else 0)
    at = end[:, None] + torch.arange(-width, 0, device=end.device)
    history = sequence.items[row[:, None], at.clamp(min=0)].masked_fill(at < 0, 0)
    return Query(sequence.user[row], sequence.event[row, slot], history, sequence.time[row, slot])


def choose_positions(mask: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``most`` True places of each row, drawn without replacement: rows [P] and columns [P].

    Args:
        mask: [B, L] bool.
        most: 0 keeps all.
        generator: on any device.
    """
    if most and largest(int(mask.sum(1).max()) if len(mask) else 0) > most:
        key = torch.rand(mask.shape, generator=generator, device=generator.device).to(mask.device)
        bound = key.masked_fill(~mask, 2.0).topk(min(most, mask.shape[1]), dim=1, largest=False).values[:, -1:]
        mask = mask & (key <= bound)
    row, slot = mask.nonzero(as_tuple=True)
    return row, slot
