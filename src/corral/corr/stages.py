"""Both stages over the same examples: queries encoded once, one shared sample, scores and logits of it.

Shape letters: P examples, N items per example, A positions of a batch, M items in the catalogue, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from corral.data.batches import Batch, Query, SequenceBatch
from corral.data.positions import choose_positions, queries_at
from corral.ranking.evidence import ReadsScores
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.retriever import CausalRetriever, Retriever, pair_scores
from corral.sampling.sampler import Sampler
from corral.training.retrieval_objectives import target_weights


@dataclass(frozen=True)
class Encoded:
    """The examples of a batch, the retriever's part of the queries done.

    Attributes:
        queries: the retriever's vectors of the P examples that both stages train on [P, D].
        target: their clicked items [P].
        query: the same examples for the ranker.
        every_query: query vectors of all A positions of the batch [A, D]; the P are among them.
        every_target: their clicked items [A].
        chosen: where the P examples are among the A [P].
        every_weight: what each position counts in a loss [A]; None: all alike.
    """

    queries: Tensor
    target: Tensor
    query: Query
    every_query: Tensor
    every_target: Tensor
    chosen: Tensor
    every_weight: Tensor | None = None

    @property
    def weight(self) -> Tensor | None:
        """Weights of the P examples."""
        return None if self.every_weight is None else self.every_weight[self.chosen]


@dataclass(frozen=True)
class Scored:
    """What both stages say of the clicked item (column 0) and N draws.

    Attributes:
        scores: the retriever's [P, 1 + N], gradient to the retriever.
        logits: the ranker's [P, 1 + N], gradient to the ranker alone.
        log_q: natural log of the normalised draw probability [P, 1 + N].
        hit: True where a draw is the clicked item [P, N].
        items: item rows [P, 1 + N].
        beside: what the ranker loses at its own task, see ``LearnsBeside``; None: it has none.
        weight: of each example [P]; None: all alike.
    """

    scores: Tensor
    logits: Tensor
    log_q: Tensor
    hit: Tensor
    items: Tensor
    beside: Tensor | None = None
    weight: Tensor | None = None


@runtime_checkable
class LearnsBeside(Protocol):
    """A ranker with a task of its own beside the clicks, on the same examples: RAR's exposures.

    Attributes:
        alpha: weight of the clicks; the rest is its own task's.
    """

    alpha: float

    def refresh(self) -> None:
        """Brings what it derives from weights up to date; called with the sampler's refresh, before it."""
        ...

    def logits_and_loss(self, query: Query, items: Tensor, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [P, n], and the loss of its own task."""
        ...


class Stages(nn.Module):
    """A retriever and a ranker that train on the same examples.

    The causal trick: of a ``SequenceBatch`` one pass of the retriever gives queries at all positions; the
    retriever's click loss uses every one, the ranker (and what is drawn for it) a random few per sequence.

    Args:
        retriever: stage 1.
        ranker: stage 2.
        catalogue: item rows [M].
        positions: the ranker trains on at most so many positions of a sequence; 0: on all.
        history_length: of the ranker's queries.
        seed: of the choice of positions.
    """

    catalogue: Tensor

    def __init__(
        self,
        retriever: nn.Module,
        ranker: nn.Module,
        catalogue: Tensor,
        *,
        positions: int = 0,
        history_length: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.retriever, self.ranker = retriever, ranker
        self.positions, self.history_length = positions, history_length
        self.generator = torch.Generator().manual_seed(seed)
        self.register_buffer("catalogue", catalogue, persistent=False)

    def encode(self, batch: Batch | SequenceBatch) -> Encoded:
        """Query vectors of a batch and which of its positions the ranker trains on."""
        if isinstance(batch, Batch):
            queries = cast(Retriever, self.retriever).encode_queries(batch.query)
            everyone = torch.arange(len(queries), device=queries.device)
            return Encoded(queries, batch.item, batch.query, queries, batch.item, everyone, batch.weight)
        row, slot = batch.target_mask.nonzero(as_tuple=True)
        states = cast(CausalRetriever, self.retriever).encode_positions(batch)
        # index_select, not brackets: its gradient is many times cheaper.
        at = row * states.shape[1] + batch.query_index[row, slot]
        every = states.flatten(0, 1).index_select(0, at)
        target = batch.items[row, slot]
        number = torch.full(batch.items.shape, -1, device=row.device)
        number[row, slot] = torch.arange(len(row), device=row.device)
        row, slot = choose_positions(batch.target_mask, self.positions, self.generator)
        chosen = number[row, slot]
        query = queries_at(batch, row, slot, self.history_length)
        weight = target_weights(batch)
        return Encoded(every.index_select(0, chosen), target[chosen], query, every, target, chosen, weight)

    def scores(self, queries: Tensor, items: Tensor) -> Tensor:
        """Retriever scores [P, n] of item rows [P, n]."""
        vectors = cast(Retriever, self.retriever).encode_items(items)
        return pair_scores(queries, vectors)

    def logits(self, query: Query, items: Tensor, scores: Tensor) -> Tensor:
        """Ranker logits [P, n]; a ranker that reads the retriever's scores is given them, without gradient."""
        if isinstance(self.ranker, ReadsScores):
            return self.ranker(query, items, scores.detach())
        return cast(Tensor, self.ranker(query, items))

    def score(self, encoded: Encoded, items: Tensor) -> tuple[Tensor, Tensor]:
        """Retriever scores and ranker logits of given item rows [P, n], each [P, n]."""
        scores = self.scores(encoded.queries, items)
        return scores, self.logits(encoded.query, items, scores)

    def sample(self, encoded: Encoded, sampler: Sampler, n: int, generator: torch.Generator) -> Scored:
        """The clicked item and n draws for each example, through both stages."""
        if self.training:
            sampler.observe(encoded.every_target)
        with torch.no_grad():
            proposal, own = encoded.queries.detach(), encoded.target[:, None]
            drawn = sampler.sample(proposal, n, generator)
            log_q = torch.cat([sampler.log_q(proposal, own), drawn.log_q], 1)
        items = torch.cat([own, drawn.items], 1)
        hit = drawn.items == own
        if not isinstance(self.ranker, LearnsBeside):
            return Scored(*self.score(encoded, items), log_q, hit, items, weight=encoded.weight)
        scores = self.scores(encoded.queries, items)
        logits, beside = self.ranker.logits_and_loss(encoded.query, items, scores.detach())
        return Scored(scores, logits, log_q, hit, items, beside, encoded.weight)

    @torch.no_grad()
    def clean_logits(self, encoded: Encoded, items: Tensor, scores: Tensor) -> Tensor:
        """Ranker logits [P, n] without dropout and gradient."""
        with evaluation_mode(self.ranker):
            return self.logits(encoded.query, items, scores)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Vectors of the catalogue [M, D], float32, without dropout."""
        with evaluation_mode(self.retriever):
            return cast(Retriever, self.retriever).encode_items(self.catalogue).float()
