"""Recommendations, Predictions and Neighbours: answers in external ids.

Shape letters: B users or items asked for, T list length, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from corral.data.html_table import html_table
from corral.serving.explanation import Explanation

# So many lists, and so many items of each, are shown in a notebook.
_SHOWN = 10

ServedBy = Literal["retriever", "ranker", "fused"]
PredictionKind = Literal["probability", "logit", "score"]


@dataclass(frozen=True)
class Recommendations:
    """A list of items for each of B users, best first.

    T is the longest list of the call, at most the k asked for; shorter lists end in None.

    Attributes:
        user_ids: external ids [B], as given in the call.
        item_ids: B lists of T external ids; None = no more.
        scores: what each list is sorted by, descending [B, T], float64; -inf where there is no item, NaN for
            an item of ``rerank`` that nobody knows. With a slate's diversity lists are no longer sorted by them.
        counts: items in each list [B], int64.
        requested: the k asked for.
        served_by: whose score it is: the retriever's inner product, the ranker's logit, or their mixture.
        fallback: [B] bool, True where nothing is known of the user (neither stored nor given history that
            names a known item): the list is of the most popular items, the retriever's score their train events.
        ignored_history: items of the history given in the call which the catalogue does not have [B], int64.
        explanation: what each stage said of each item; only if explained.
        closest_ids: the ids of ``explanation.closest``, None for padding.
    """

    user_ids: list[Any]
    item_ids: list[list[Any]]
    scores: np.ndarray
    counts: np.ndarray
    requested: int
    served_by: ServedBy
    fallback: np.ndarray
    ignored_history: np.ndarray
    explanation: Explanation | None = None
    closest_ids: list[list[list[Any]]] | None = None

    @property
    def retriever_scores(self) -> np.ndarray | None:
        """Stage 1's score of each item [B, T] (NaN where there is none); None unless explained."""
        return None if self.explanation is None else self.explanation.retriever_scores

    @property
    def ranker_logits(self) -> np.ndarray | None:
        """Stage 2's logit of each item [B, T], likewise; None without a ranker."""
        return None if self.explanation is None else self.explanation.ranker_logits

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def short(self) -> np.ndarray:
        """True [B] where fewer items remained than were asked for."""
        return self.counts < self.requested

    def __repr__(self) -> str:
        return f"Recommendations({len(self):,} lists of up to {self.requested:,} items, by {self.served_by})"

    def _repr_html_(self) -> str:
        users = list(range(min(len(self), _SHOWN)))
        columns = {"user": [str(self.user_ids[user]) for user in users]}
        for place in range(min(self.scores.shape[1], _SHOWN)):
            ids = [self.item_ids[user][place] for user in users]
            columns[f"{place + 1}"] = ["" if one is None else str(one) for one in ids]
        fallback = int(self.fallback.sum())
        notes = [f"{fallback:,} without history: popular items"] if fallback else []
        return html_table(repr(self), columns, notes=notes)

    def to_frame(self) -> pl.DataFrame:
        """One row an item: user_id, rank (from 1), item_id, score, fallback; both stages' scores if kept."""
        there = np.arange(self.scores.shape[1]) < self.counts[:, None]
        owner, place = there.nonzero()
        columns: dict[str, Any] = {
            "user_id": [self.user_ids[user] for user in owner],
            "rank": place + 1,
            "item_id": [self.item_ids[user][rank] for user, rank in zip(owner, place, strict=True)],
            "score": pl.Series(self.scores[there], dtype=pl.Float64).fill_nan(None),
            "fallback": self.fallback[owner],
        }
        if self.retriever_scores is not None:
            columns["retriever_score"] = self.retriever_scores[there]
        if self.ranker_logits is not None:
            columns["ranker_logit"] = self.ranker_logits[there]
        return pl.DataFrame(columns)


@dataclass(frozen=True)
class Predictions:
    """One number for each of P (user, item) pairs.

    Attributes:
        user_ids: external ids [P].
        item_ids: external ids [P].
        values: [P], float64.
        kind: what they are: "probability" of a click (calibrated on validation clicks), "logit" of the ranker
            (an order, no probability: there were no click labels to calibrate by), or "score", the
            retriever's inner product, where there is no ranker.
        known_users: [P] bool; False: the user was answered as the unknown user.
        known_items: [P] bool; False: the item was answered as the unknown item.
    """

    user_ids: list[Any]
    item_ids: list[Any]
    values: np.ndarray
    kind: PredictionKind
    known_users: np.ndarray
    known_items: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    def to_frame(self) -> pl.DataFrame:
        """One row a pair: user_id, item_id, the value named after its kind, known_user, known_item."""
        return pl.DataFrame(
            {
                "user_id": self.user_ids,
                "item_id": self.item_ids,
                self.kind: self.values,
                "known_user": self.known_users,
                "known_item": self.known_items,
            }
        )


@dataclass(frozen=True)
class Neighbours:
    """The most similar items (or users) of each of B items (or users), by the cosine of their vectors.

    Attributes:
        ids: external ids asked for [B].
        neighbour_ids: B lists of T external ids, most similar first; None = no more.
        scores: cosines [B, T], float64, descending; -inf where there is no neighbour.
        known: [B] bool; False: the id is unknown (or a user without history), its list empty.
    """

    ids: list[Any]
    neighbour_ids: list[list[Any]]
    scores: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def to_frame(self) -> pl.DataFrame:
        """One row a neighbour: id, rank (from 1), neighbour_id, cosine; nothing of an id that is unknown."""
        owner, place = np.isfinite(self.scores).nonzero()
        return pl.DataFrame(
            {
                "id": [self.ids[one] for one in owner],
                "rank": place + 1,
                "neighbour_id": [self.neighbour_ids[one][rank] for one, rank in zip(owner, place, strict=True)],
                "cosine": self.scores[owner, place],
            }
        )
