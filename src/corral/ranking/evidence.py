"""What the recall stage knows of (history, candidate), as inputs of a ranker.

Shape letters: B queries, N items per query, R latest history items, E inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.ranking.fields import Fields
from corral.ranking.held_out_correction import HeldOutCorrection
from corral.ranking.ranker import EncodedQuery, FieldRanker
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.retriever import Retriever, pair_scores


class Evidence(Protocol):
    """Numbers about a pair that the ranker's embeddings do not carry; nothing in it is learned.

    Attributes:
        size: E.
    """

    size: int

    def __call__(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, E] for item rows [B, N]; without gradient, about unit scale."""
        ...


@runtime_checkable
class HoldsItemRows(Protocol):
    """A part of a ranker whose tables hold item rows as values, not one row per item."""

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """Takes a longer catalogue, of whose new items nothing is known.

        Args:
            moved: where each item row went [old rows], int64, on the CPU; the order of items stays.
            items: features by the new rows.
        """
        ...


@runtime_checkable
class ReadsScores(Protocol):
    """A ranker that may read the retriever's score: called with it, or connected to the retriever once."""

    def connect(self, retriever: Retriever) -> None:
        """Names the retriever, for calls without scores."""
        ...

    def __call__(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits [B, N]; ``scores`` [B, N] are the retriever's, and no gradient flows back to it."""
        ...


class CoVisitationEvidence(nn.Module):
    """Co-visitation between the R latest history items and the candidate; see ``CoVisitation``.

    Of no paper: corral's own choice. The factors 4 and 1/4 bring weights and counts to about unit scale.

    One input a step back in the history and direction, so that the ranker learns what recency is worth:
    log(1 + 4 w(h_r -> i)) and log(1 + 4 w(i -> h_r)), r = 1 .. R. Then five summaries: the decayed sum over
    all steps, the same divided by the root of the item's count, how many steps were ever co-visited, the
    log of the item's count, and the log of the strongest single count.

    Args:
        table: the counts, on train events, the user's own taken out.
        recent: R.
        decay: of the sums.
    """

    def __init__(self, table: CoVisitation, *, recent: int = 10, decay: float = 0.6) -> None:
        super().__init__()
        self.table, self.recent = table, recent
        self.size = 2 * recent + 5
        decays = decay ** torch.arange(recent - 1, -1, -1).float()
        self.register_buffer("decays", decays, persistent=False)

    decays: Tensor

    @torch.no_grad()
    def forward(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, 2 R + 5]."""
        history = query.recent(self.recent).history
        missing = self.recent - history.shape[1]
        if missing:
            history = torch.cat([history.new_zeros(len(query), missing), history], 1)
        ahead, behind = self.table.between(query.user, history, items)
        both = ahead + behind
        # Not a product of matrices: autocast would make it in bfloat16, in training and not in service.
        weighted = (both * self.decays).sum(-1)
        own = self.table.owned(query.user, items).float()
        count = (self.table.counts[items] - own).clamp(min=0)
        summaries = torch.stack(
            [
                torch.log1p(4 * weighted),
                4 * weighted / (count + 1).sqrt(),
                (both > 0).float().mean(-1),
                torch.log1p(count) / 4,
                torch.log1p(4 * both.amax(-1)),
            ],
            -1,
        )
        return torch.cat([torch.log1p(4 * ahead), torch.log1p(4 * behind), summaries], -1)

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``."""
        device = self.table.keys.device
        self.table = self.table.cpu().renumbered(moved, items.rows).to(device)


class EvidenceRanker(nn.Module):
    """A ``FieldRanker`` that also reads evidence, and, where wished, the retriever's score.

    The score comes in twice: as an input of the CTR model, and added to the logit with one learned factor
    (1 at the start), so that the ranker begins as a correction of the order it is given and need not learn
    that order anew. No gradient goes to the retriever.
    Out of training logits are corrected by what was fitted on held-out queries, if it was: ``HeldOutCorrection``.

    Args:
        ranker: its CTR model is built with ``num_extra`` = the evidence's size, + 1 with ``score``.
        evidence: of the pair; None: the retriever's score alone.
        score: read the retriever's score; :meth:`connect` names the retriever, or the caller passes scores.
        late: further evidence that the correction alone reads; see :meth:`read_late`.
    """

    def __init__(
        self,
        ranker: FieldRanker,
        evidence: nn.Module | None,
        *,
        score: bool = False,
        late: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.ranker, self.evidence = ranker, evidence
        self.late: nn.Module | None = None
        self.factor = nn.Parameter(torch.ones(())) if score else None
        self.correction = HeldOutCorrection((0 if evidence is None else cast(Evidence, evidence).size) + int(score))
        if late is not None:
            self.read_late(late)
        self._retriever: Callable[[], Retriever] | None = None
        self._remembered: Callable[[Query, Tensor], Tensor | None] | None = None

    @property
    def history_length(self) -> int | None:
        """How many of the latest items it reads."""
        return self.ranker.history_length

    @property
    def fields(self) -> Fields:
        """The embeddings of the inner ranker."""
        return self.ranker.fields

    @property
    def embedding_dropout(self) -> float:
        """Of the inner ranker."""
        return self.ranker.embedding_dropout

    def connect(self, retriever: Retriever) -> None:
        """Names the retriever whose score is read.

        It does not become a part of this module, and is neither saved nor trained with it: the callable hides
        it from ``nn.Module``'s bookkeeping.
        """
        self._retriever = lambda: retriever

    def read_late(self, late: nn.Module) -> None:
        """Takes evidence that the correction alone reads, once training is over: it costs nothing there."""
        self.late = late
        self.correction = HeldOutCorrection(len(self.correction.weight) + cast(Evidence, late).size)

    def remember(self, remembered: Callable[[Query, Tensor], Tensor | None] | None) -> None:
        """Asks here for evidence first, and works it out only where None is answered; not saved with the ranker."""
        self._remembered = remembered

    def _known(self, query: Query, items: Tensor) -> Tensor:
        """Evidence [B, N, E], remembered or new."""
        known = None if self._remembered is None else self._remembered(query, items)
        assert self.evidence is not None
        return self.evidence(query, items) if known is None else known

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """Those of the inner ranker."""
        return self.ranker.id_tables()

    def forward(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits [B, N].

        Args:
            query: B queries.
            items: item rows [B, N], int64.
            scores: the retriever's, where the caller has them [B, N]; no gradient flows back. None: asked
                from the connected retriever.
        """
        return self.logits(self.encode(query), query, items, scores)

    def encode(self, query: Query) -> EncodedQuery:
        """The part that is the same for every item of a query."""
        return self.ranker.encode(query)

    def logits(
        self,
        encoded: EncodedQuery,
        query: Query,
        items: Tensor,
        scores: Tensor | None = None,
        *,
        more: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, N] of queries already encoded; ``more`` and ``extra`` are added to the inputs of the pair."""
        known = self._read(query, items, scores)
        both = [part for part in (extra, known) if part is not None]
        logits = self.ranker.logits(encoded, items, torch.cat(both, -1) if both else None, more)
        if self.factor is not None:
            assert known is not None
            logits = logits + self.factor * (8 * known[..., -1])
        # Training is on rows that everything learned has seen: what was fitted elsewhere does not belong there.
        if self.training or not self.correction.fitted:
            return logits
        weighed = self._with_late(known, query, items)
        return logits if weighed is None else cast(Tensor, self.correction(logits, weighed))

    def inputs(self, query: Query, items: Tensor) -> Tensor | None:
        """What the correction may weigh [B, N, E]: all evidence, an eighth of the retriever's score; None: nothing."""
        return self._with_late(self._read(query, items, None), query, items)

    def _with_late(self, known: Tensor | None, query: Query, items: Tensor) -> Tensor | None:
        found = [known] if self.late is None else [known, self.late(query, items)]
        there = [part for part in found if part is not None]
        return torch.cat(there, -1) if there else None

    def _read(self, query: Query, items: Tensor, scores: Tensor | None) -> Tensor | None:
        """What the CTR model reads: evidence, and last the score."""
        found = [] if self.evidence is None else [self._known(query, items)]
        if self.factor is not None:
            scores = self._scores(query, items) if scores is None else scores.detach()
            found.append(scores[..., None] / 8)
        return torch.cat(found, -1) if found else None

    @torch.no_grad()
    def _scores(self, query: Query, items: Tensor) -> Tensor:
        if self._retriever is None:
            raise ValueError("this ranker reads the retriever's score: connect(retriever) first, or pass scores")
        retriever = self._retriever()
        return pair_scores(retriever.encode_queries(query), retriever.encode_items(items))
