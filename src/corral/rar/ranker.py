"""RAR: any CTR model with two more fields, what look-alikes have in common and what recall items add.

Shape letters: B queries, N items per query, Ku look-alike users, Ki recall items, H tower size, D field size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Query
from corral.data.whole_batch import largest
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.ranker import EncodedQuery
from corral.rar.co_interaction import CoInteraction, Matching, valid_cells
from corral.rar.neighbours import Neighbours
from corral.retrieval.entity_fields import EntityFields
from corral.retrieval.kept_rows import KeptRows
from corral.retrieval.places import Places
from corral.retrieval.retriever import Retriever

# Bound on what is kept of all users, and of all items, while weights stand still.
_KEPT_BYTES = 1 << 28

# Vectors of fields [n, F D] -> towers [n, H] and projected rows [n, D].
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Side = tuple[KeptRows, EntityFields, Encode]


@dataclass(frozen=True)
class RarQuery:
    """What is known of B queries before an item is seen.

    Attributes:
        inner: of the ranker that is enriched.
        snapshot: what each may see [B].
        user_rows: look-alike users [B, Ku], 0-padded.
        towers: theirs [B, Ku, H].
        rows: what is pooled of them [B, Ku, D].
    """

    inner: EncodedQuery
    snapshot: Tensor
    user_rows: Tensor
    towers: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Enriched:
    """Logits, and what made them.

    Attributes:
        logits: [B, N].
        matching: of look-alikes and recall items.
        user_rows: look-alike users [B, Ku].
        item_rows: recall items [B, N, Ki].
    """

    logits: Tensor
    matching: Matching
    user_rows: Tensor
    item_rows: Tensor


class RarRanker(nn.Module):
    """A ranker whose CTR model also sees v_c and v_d, as two more item fields (or, ``as_extra``, as dense inputs).

    The CTR model does not know about RAR: it was built for two more item fields, or for more extra inputs. Rows that a
    batch names several times go through the towers once; without gradient, rows of all users and of all items are kept
    from call to call while no weight changes, see ``KeptRows``.

    Args:
        ranker: the one that is enriched.
        neighbours: who is alike and what is recalled.
        co_interaction: the two towers and the matrix.
        as_extra: for LR: one weight a coordinate, not two fields.
        zeroed: v_c and v_d are zero: the parameters without the information (control).
    """

    def __init__(
        self,
        ranker: EvidenceRanker,
        neighbours: Neighbours,
        co_interaction: CoInteraction,
        *,
        as_extra: bool = False,
        zeroed: bool = False,
    ) -> None:
        super().__init__()
        self.ranker, self.neighbours, self.co_interaction = ranker, neighbours, co_interaction
        self.as_extra, self.zeroed = as_extra, zeroed
        self._kept_users, self._kept_items = KeptRows(_KEPT_BYTES), KeptRows(_KEPT_BYTES)

    def precompute(self) -> None:
        """Computes what can be kept of all users and items now, not once enough of them were asked for (serving)."""
        for kept, entity, encode in (self._user_side(), self._item_side()):
            kept.keep((entity, self.co_interaction), entity.num_rows, _encoder(entity, encode))

    def forget(self) -> None:
        """Drops what is kept: needed only after weights were written to through ``tensor.data``."""
        self._kept_users.forget()
        self._kept_items.forget()

    def train(self, mode: bool = True) -> RarRanker:
        """See ``nn.Module``; training drops what is kept."""
        if mode:
            self.forget()
        return super().train(mode)

    @property
    def history_length(self) -> int | None:
        """How many of the latest items the inner ranker reads."""
        return self.ranker.history_length

    def connect(self, retriever: Retriever) -> None:
        """Names the retriever whose score the inner ranker reads."""
        self.ranker.connect(retriever)

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """Those of the inner ranker."""
        return self.ranker.id_tables()

    def forward(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits [B, N]; see ``EvidenceRanker``."""
        return self.enriched(query, items, scores).logits

    def enriched(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Enriched:
        """Logits [B, N] and the matching that made them."""
        return self.enrich(self.encode(query), query, items, scores)

    def encode(self, query: Query) -> RarQuery:
        """The part that is the same for every item of a query: the look-alike side is done here, once."""
        snapshot = self.neighbours.rule.snapshot(query.time, query.user, learning=self.training)
        rows = self.neighbours.of_queries(snapshot, query)
        towers, vectors, places = self._encoded(rows, *self._user_side())
        return RarQuery(self.ranker.encode(query), snapshot, rows, places.spread(towers), places.spread(vectors))

    def enrich(
        self,
        encoded: RarQuery,
        query: Query,
        items: Tensor,
        scores: Tensor | None = None,
        *,
        item_rows: Tensor | None = None,
    ) -> Enriched:
        """Logits of queries already encoded, and the matching; ``item_rows`` [B, N, Ki]: other recall items."""
        rows = self.neighbours.recall_items(encoded.snapshot, query.user, items) if item_rows is None else item_rows
        towers, vectors, places = self._encoded(rows, *self._item_side())
        masks = encoded.user_rows > 0, rows > 0
        # A request seldom has padding, and to mask cells takes as long as to match; on a GPU it would take long to ask.
        ask = rows.device.type == "cpu" and not torch.compiler.is_compiling()
        full = ask and len(rows) == 1 and bool(rows.all() & encoded.user_rows.all())
        shape = (*rows.shape[:2], encoded.user_rows.shape[1], rows.shape[2])
        cells = torch.ones((), dtype=torch.bool).expand(shape) if full else valid_cells(*masks)
        matching = self.co_interaction.match(encoded.towers, places.spread(towers), cells, full=full)
        of_users, of_items = self.co_interaction.weights(matching, *masks)
        common = torch.bmm(of_users.to(encoded.rows.dtype), encoded.rows)
        pooled = common, places.weighted_sum(vectors, of_items)
        if self.zeroed:
            pooled = (torch.zeros_like(pooled[0]), torch.zeros_like(pooled[1]))
        more, extra = None, None
        if self.as_extra:
            extra = torch.cat(pooled, -1)
        else:
            more = self._dropped(torch.stack(pooled, 2))
        logits = self.ranker.logits(encoded.inner, query, items, scores, more=more, extra=extra)
        return Enriched(logits, matching, encoded.user_rows, rows)

    def logits(self, encoded: RarQuery, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits [B, N] of queries already encoded."""
        return self.enrich(encoded, query, items, scores).logits

    def _user_side(self) -> Side:
        return self._kept_users, self.ranker.fields.users, self.co_interaction.encode_users

    def _item_side(self) -> Side:
        return self._kept_items, self.ranker.fields.catalogue, self.co_interaction.encode_items

    def _encoded(
        self, rows: Tensor, kept: KeptRows, entity: EntityFields, encode: Encode
    ) -> tuple[Tensor, Tensor, Places]:
        """Towers [n, H] and projected rows [n, D] of some rows or of all, and the places of ``rows`` [...] there."""
        make = _encoder(entity, encode)
        if torch.compiler.is_compiling():  # the number of distinct rows is not a static shape
            return *make(rows.flatten()), Places(torch.arange(rows.numel(), device=rows.device).view(rows.shape))
        if not torch.is_grad_enabled():
            # All shares keep them or none: where tables are cut, all must look up together.
            tables = kept.of((entity, self.co_interaction), entity.num_rows, largest(rows.numel()), make)
            if tables is not None:
                return tables[0], tables[1], Places(rows)
        distinct, places = Places.distinct(rows)
        return *make(distinct), places

    def _dropped(self, fields: Tensor) -> Tensor:
        """Dropout of the two fields [B, N, 2, D] with one mask per query, as the ranker's own fields have it."""
        probability = self.ranker.embedding_dropout
        if not self.training or probability == 0.0:
            return fields
        return fields * functional.dropout(fields.new_ones(len(fields), 1, *fields.shape[2:]), probability)


def _encoder(entity: EntityFields, encode: Encode) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Distinct rows [n] -> towers and projected rows. Ids are never dropped here: a neighbour stands for itself."""
    # Field by field: the whole entity would look for distinct rows again.
    fields = (*entity.id_tables(), *entity.columns)
    return lambda rows: encode(torch.cat([field(rows) for field in fields], 1))
