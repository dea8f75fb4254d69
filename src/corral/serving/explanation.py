"""Explanation: what each stage said of the items of a list, and which items of the history are like them.

Shape letters: B users, T list length, N candidates, L history length, C closest items, D vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corral.data.candidates import Candidates
from corral.evaluation.metrics import ranking_order
from corral.retrieval.retriever import Retriever

CLOSEST = 3


@dataclass(frozen=True)
class Explanation:
    """Facts about each item of B lists of T; NaN, rank 0 and row 0 where there is no item.

    Attributes:
        retriever_scores: stage 1's score [B, T]; of popular items, the number of train events.
        retriever_ranks: its rank among stage 1's candidates, from 1 [B, T], int64.
        ranker_logits: stage 2's logit [B, T]; None without a ranker.
        ranker_ranks: its rank among the same candidates by that logit, from 1 [B, T], int64; None likewise.
        closest: item rows of the history whose retriever vectors are closest to the item's [B, T, C], int64,
            closest first. They are alike, as the retriever sees it; nobody says that they caused the item.
        cosines: of these vectors [B, T, C], float64; -inf where ``closest`` is 0.
    """

    retriever_scores: np.ndarray
    retriever_ranks: np.ndarray
    ranker_logits: np.ndarray | None
    ranker_ranks: np.ndarray | None
    closest: np.ndarray
    cosines: np.ndarray

    @classmethod
    def of(
        cls, retriever: Retriever, history: Tensor, found: Candidates, logits: Tensor | None, order: Tensor
    ) -> Explanation:
        """The facts about served lists.

        Args:
            retriever: in eval mode.
            history: item rows [B, L], 0-padded.
            found: stage 1's candidates [B, N].
            logits: stage 2's [B, N]; None without a ranker.
            order: columns of the candidates that are served, best first [B, T].
        """
        items = found.items.gather(1, order)
        there = items != 0
        own = ranks = None
        if logits is not None:
            own = logits.gather(1, order).float().masked_fill(~there, torch.nan).cpu().numpy()
            places = ranking_order(found.items, logits).argsort(dim=1) + 1
            ranks = places.gather(1, order).masked_fill(~there, 0).cpu().numpy()
        near = closest_in_history(retriever, history, items)
        return cls(
            found.scores.gather(1, order).masked_fill(~there, torch.nan).cpu().numpy(),
            (order + 1).masked_fill(~there, 0).cpu().numpy(),
            own,
            ranks,
            near.items.cpu().numpy(),
            near.scores.double().cpu().numpy(),
        )

    @classmethod
    def joined(cls, blocks: Sequence[Explanation], length: int) -> Explanation:
        """The explanations of several blocks of users as one, lists cut to ``length``."""

        def whole(name: str) -> Any:
            parts = [getattr(block, name) for block in blocks]
            return None if parts[0] is None else np.concatenate(parts)[:, :length]

        return cls(*(whole(one.name) for one in fields(cls)))


def closest_in_history(retriever: Retriever, history: Tensor, items: Tensor) -> Candidates:
    """The items of each history with the greatest cosine to each item: rows and cosines [B, T, C].

    Args:
        retriever: whose item vectors are compared.
        history: [B, L], 0-padded; an item that comes several times counts once.
        items: [B, T], 0-padded.
    """
    count = min(CLOSEST, history.shape[1])
    past = functional.normalize(retriever.encode_items(history).float(), dim=-1)
    vectors = functional.normalize(retriever.encode_items(items).float(), dim=-1)
    again = (history[:, :, None] == history[:, None, :]).triu(1).any(dim=2)
    absent = (items == 0)[:, :, None] | ((history == 0) | again)[:, None, :]
    # rounding can lift a cosine a hair above 1
    cosines = torch.einsum("btd,bld->btl", vectors, past).clamp(max=1.0).masked_fill(absent, -torch.inf)
    best = cosines.topk(count, dim=2)
    rows = history[:, None, :].expand(-1, items.shape[1], -1).gather(2, best.indices)
    return Candidates(rows.masked_fill(best.values.isneginf(), 0), best.values)
