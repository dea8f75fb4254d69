"""TwoStageRecommender: raw ids in; retrieve, rank, and raw ids out.

Shape letters: B users of a call, T list length, N candidates, P pairs, L history length, D vector size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary
from corral.evaluation.calibration import Calibration
from corral.evaluation.metrics import ranked, ranking_order
from corral.evaluation.mixture import Mixture, final_scores
from corral.evaluation.result import Stage
from corral.ranking.evidence import ReadsScores
from corral.ranking.ranker import Ranker
from corral.retrieval.channels import ColdStartChannel, RetrieverChannel
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.index import ItemIndex
from corral.retrieval.index_rule import IndexRule
from corral.retrieval.popularity import PopularityChannel, PopularityRetriever
from corral.retrieval.retriever import Retriever
from corral.serving.encoded_once import EncodedOnce
from corral.serving.explanation import Explanation
from corral.serving.external_ids import external, external_nested, numbered
from corral.serving.filters import GivenHistories, Ids, allow_mask
from corral.serving.item_index import item_vectors
from corral.serving.module_spec import ModuleSpec
from corral.serving.pair_blocks import pair_blocks
from corral.serving.queries import Queries
from corral.serving.recommendations import Neighbours, PredictionKind, Predictions, Recommendations
from corral.serving.serving_tables import ServingTables
from corral.serving.similarity import Cosines
from corral.serving.slate_rules import SlateRules, Slates
from corral.serving.user_vectors import user_vectors, users_with_history


class TwoStageRecommender:
    """Answers requests from a trained retriever and ranker. Never fits, and never changes.

    Fixed answers (all tested):

    - A user without a usable history, unknown or not: stage 1 gives the most popular items that pass the
      filters (its scores are then their train counts), stage 2 ranks them; ``fallback`` says so. A history
      given in the call makes an unknown user a normal one: the models see the unknown user (row 1) with it.
    - A given history takes the place of the stored one for the models; ``filter_seen`` hides the items of
      both. Items of it that the catalogue lacks are ignored and counted. If none is left, or None is given
      for a user, the stored one is used.
    - Recent events of a user, known or not, follow the stored ones; ``filter_seen`` hides their items too.
    - k above what is left by the filters: what there is; lists end in None, ``counts`` and ``short`` say so.
      k below 1: ValueError. While k items remain, k are returned, whatever is filtered, and whatever a slate asks.
    - Users and items have features that are missing: the models' own missing values, never an error.
    - New items: see ``add_items``.
    - Equal scores are ordered by item row (that is, by external id) ascending.

    Args:
        tables: vocabularies, features and histories.
        retriever: stage 1.
        index: a snapshot of its item vectors.
        popularity: stage 1 where nothing is known of the user.
        ranker: stage 2; None = the retriever's order is served.
        mixture: fuses both stages' scores.
        calibration: turns the ranker's logits into probabilities, where it was fitted on click labels.
        num_candidates: N, items the ranker sees (more when more are asked for).
        serve_by: whose score is served; None = fused if there is a mixture, else the ranker's if there is
            one, else the retriever's.
        history_length: L, the latest items of a user that the models see.
        batch_size: users answered at a time.
        repeats: items that the user had before may be recommended, unless a call says otherwise.
        index_rule: by which a longer catalogue is indexed again; None = the default one.
        specs: how to build "retriever" and "ranker" again; needed to save a bundle.

    Raises:
        ValueError: the parts do not fit together.
    """

    def __init__(
        self,
        tables: ServingTables,
        retriever: Retriever,
        index: ItemIndex,
        popularity: PopularityChannel,
        *,
        ranker: Ranker | None = None,
        mixture: Mixture | None = None,
        calibration: Calibration | None = None,
        num_candidates: int = 100,
        serve_by: Stage | None = None,
        history_length: int = 50,
        batch_size: int = 512,
        repeats: bool = False,
        index_rule: IndexRule | None = None,
        specs: Mapping[str, ModuleSpec] | None = None,
    ) -> None:
        if min(num_candidates, history_length, batch_size) < 1:
            raise ValueError(
                "num_candidates, history_length and batch_size must be positive, "
                f"got {num_candidates}, {history_length} and {batch_size}"
            )
        if serve_by is None:
            serve_by = Stage.RANKER if ranker is not None else Stage.RETRIEVER
            serve_by = Stage.FUSED if mixture is not None else serve_by
        if serve_by is not Stage.RETRIEVER and ranker is None:
            raise ValueError(f"serve_by={serve_by.value} needs a ranker")
        if serve_by is Stage.FUSED and mixture is None:
            raise ValueError("serve_by=fused needs a mixture")
        if len(index.items) and int(index.items[-1]) >= len(tables.items):
            raise ValueError(
                f"the index has item row {int(index.items[-1])}, but the vocabulary {len(tables.items)} rows"
            )
        if len(popularity.counts) != len(tables.items):
            raise ValueError(f"popularity has {len(popularity.counts)} item rows, the vocabulary {len(tables.items)}")
        if len(tables.histories.offsets) != len(tables.users) + 1:
            raise ValueError(
                f"the histories have {len(tables.histories.offsets) - 1} user rows, the vocabulary {len(tables.users)}"
            )
        self.tables, self.retriever, self.index, self.popularity = tables, retriever, index, popularity
        self.ranker, self.mixture = ranker, mixture
        self._encoder = EncodedOnce(retriever)
        if isinstance(ranker, ReadsScores):
            ranker.connect(self._encoder)
        self.calibration = calibration or Calibration()
        self.num_candidates, self.serve_by = num_candidates, serve_by
        self.history_length, self.batch_size = history_length, batch_size
        self.repeats = repeats
        self.index_rule = index_rule or IndexRule()
        self.specs = dict(specs or {})
        self._queries = Queries(tables, history_length)
        self.channel = ColdStartChannel(RetrieverChannel(self._encoder, index), popularity)
        self._item_cosines: Cosines | None = None
        self._user_cosines: Cosines | None = None

    @property
    def device(self) -> torch.device:
        """Where the models live."""
        for part in (self.retriever, self.ranker):
            if isinstance(part, nn.Module):
                for tensor in chain(part.parameters(), part.buffers()):
                    return tensor.device
        return torch.device("cpu")

    def varied(
        self, *, ranker: Ranker | None, num_candidates: int, retriever: Retriever | None = None
    ) -> TwoStageRecommender:
        """The same parts with another ranker and number of candidates, to be asked and not to be saved.

        ``retriever``: another way to run the same one; its vectors are those of the index.
        """
        return TwoStageRecommender(
            self.tables,
            retriever or self.retriever,
            self.index,
            self.popularity,
            ranker=ranker,
            mixture=self.mixture,
            calibration=self.calibration,
            num_candidates=num_candidates,
            serve_by=self.serve_by,
            history_length=self.history_length,
            batch_size=self.batch_size,
            repeats=self.repeats,
            index_rule=self.index_rule,
        )

    def query(
        self,
        users: Ids,
        *,
        history: Sequence[Sequence[Any] | None] | None = None,
        recent: Mapping[Any, Sequence[Any]] | None = None,
        time: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> Query:
        """What :meth:`recommend` asks the models, of the same arguments; on their device."""
        user_ids, rows = numbered(self.tables.users, users)
        given = GivenHistories(self.tables.items, history, len(rows))
        known = self._queries.known(rows, self._queries.later(user_ids, recent), given, slice(None))
        return self._queries.query(rows, known, time, features or {}).to(self.device)

    @torch.no_grad()
    def recommend(
        self,
        users: Ids,
        k: int = 10,
        *,
        filter_seen: bool | None = None,
        allow: Ids | None = None,
        deny: Ids | None = None,
        history: Sequence[Sequence[Any] | None] | None = None,
        recent: Mapping[Any, Sequence[Any]] | None = None,
        time: int | None = None,
        features: Mapping[str, Tensor] | None = None,
        slate: SlateRules | None = None,
        explain: bool = False,
    ) -> Recommendations:
        """The k best items for each user.

        Args:
            users: external user ids [B].
            k: list length, at least 1.
            filter_seen: hide what the user already has: the stored history, and the one given. None = as
                the system was judged: hidden unless ``repeats``.
            allow: external item ids; only these are recommended. None = all.
            deny: external item ids never recommended; wins over ``allow``.
            history: for each user the external item ids of a history, oldest first, or None.
            recent: by external user id, the item ids of events after the export, oldest first; those that the
                catalogue lacks are ignored.
            time: of the request, in the data set's unit; None = just after the export's latest event.
            features: request features by name, each [B, ...], for rankers that were trained with them.
            slate: rules for each list as a whole: diversity, at most so many of a kind, so many new items. With
                diversity a list is in the order of MMR, no longer of its scores.
            explain: keep what both stages said of each item, and the history items closest to it.

        Raises:
            ValueError: k below 1, ids of the wrong type, or one history a user is not what was given.
        """
        k = _checked_k(k)
        hide_seen = not self.repeats if filter_seen is None else filter_seen
        user_ids, rows = numbered(self.tables.users, users)
        given = GivenHistories(self.tables.items, history, len(rows))
        later = self._queries.later(user_ids, recent)
        width = min(k, len(self.tables.items) - FIRST_ROW)
        items = np.zeros((len(rows), width), dtype=np.int64)
        scores = np.full((len(rows), width), -np.inf)
        explanations = []
        fallback = np.zeros(len(rows), dtype=bool)
        mask = allow_mask(self.tables.items, allow, deny)
        mask = None if mask is None else mask.to(self.device)
        slates = None
        if slate is not None:
            counts, indexed = self.popularity.counts, self.index.items.to(self.device)
            slates = slate.slates(self.tables.items, self.tables.item_features, counts, indexed)
        with evaluation_mode(self.retriever, self.ranker):
            for start in range(0, len(rows) if width else 0, self.batch_size):
                block = slice(start, start + self.batch_size)
                own = {name: value[block] for name, value in (features or {}).items()}
                past = self._queries.known(rows[block], later, given, block)
                query = self._queries.query(rows[block], past, time, own)
                exclude = self._queries.seen(rows[block], (later, given), block) if hide_seen else None
                fallback[block] = ColdStartChannel.cold(query).numpy()
                lists, explanation = self._two_stages(query, width, exclude, mask, slates, explain)
                items[block], scores[block] = lists.items.numpy(), lists.scores.numpy()
                if explanation is not None:
                    explanations.append(explanation)
        counts = (items != 0).sum(axis=1)
        longest = int(counts.max(initial=0))
        explained = Explanation.joined(explanations, longest) if explanations else None
        return Recommendations(
            user_ids=user_ids,
            item_ids=external(self.tables.items, items[:, :longest]),
            scores=scores[:, :longest],
            counts=counts,
            requested=k,
            served_by=self.serve_by.value,
            fallback=fallback,
            ignored_history=given.ignored,
            explanation=explained,
            closest_ids=None if explained is None else external_nested(self.tables.items, explained.closest),
        )

    def _two_stages(
        self,
        query: Query,
        k: int,
        exclude: Tensor | None,
        mask: Tensor | None,
        slates: Slates | None,
        explain: bool,
    ) -> tuple[Candidates, Explanation | None]:
        """The served lists [B, k], on the CPU in float64, and what is to be said of them."""
        query = query.to(self.device)
        wide = min(max(k, self.num_candidates), len(self.tables.items) - FIRST_ROW)
        hidden = None if exclude is None else exclude.to(self.device)
        with self._encoder.remember(query):
            if slates is None:
                found = self.channel.recall(query, wide, hidden, mask)
            else:
                found = slates.pool(self.channel.recall, query, k, wide, hidden, mask)
            final, logits = self._final_scores(query, found, explain)
        if slates is None:
            order = ranking_order(found.items, final)[:, :k]
        else:
            order = slates.order(found, final, k, self.retriever)
        served = Candidates(found.items.gather(1, order).cpu(), final.gather(1, order).cpu())
        if not explain:
            return served, None
        return served, Explanation.of(self.retriever, query.history, found, logits, order)

    def _final_scores(self, query: Query, found: Candidates, explain: bool) -> tuple[Tensor, Tensor | None]:
        """What lists are ordered by [B, N], float64, -inf at padding; and the ranker's logits where it was asked."""
        logits = None
        if self.ranker is not None and (explain or self.serve_by is not Stage.RETRIEVER):
            logits = self.ranker(query, found.items)
        final = final_scores(self.serve_by, found, logits, self.mixture).double()
        return final.masked_fill(~found.mask, -torch.inf), logits

    @torch.no_grad()
    def rerank(
        self,
        users: Ids,
        candidates: Sequence[Sequence[Any]],
        k: int | None = None,
        *,
        recent: Mapping[Any, Sequence[Any]] | None = None,
        time: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> Recommendations:
        """Each user's own candidates, from whatever system, in the order in which this one would serve them.

        Stage 1 scores the given items instead of searching; all else is as in ``recommend``: the ranker, the
        mixture (standardised over the user's candidates), the order of equal scores. The candidates of
        ``recommend`` come back in its order. Nothing is filtered: who gives a seen item gets it back.

        Fixed answers (all tested): items that the catalogue lacks stand last, in the order given, with score NaN.
        Users without a history are scored by train counts and the ranker, as in ``recommend``; ``fallback`` says so.
        Fewer candidates than k: all of them.

        Args:
            users: external user ids [B].
            candidates: external item ids for each user, in any order, none twice in a list.
            k: list length; None = all that is given.
            recent: events after the export; as in ``recommend``.
            time: of the request; as in ``recommend``.
            features: request features by name; as in ``recommend``.

        Raises:
            ValueError: k below 1, ids of the wrong type, an item twice in a list, or not one list a user.
        """
        user_ids, rows = numbered(self.tables.users, users)
        given = GivenHistories(self.tables.items, candidates, len(rows), what="candidates")
        for user, ids in zip(user_ids, candidates, strict=True):
            if ids is not None and len(set(ids)) < len(ids):
                raise ValueError(f"candidates of user {user!r}: an item stands in them twice; give each once")
        lengths = given.lengths + given.ignored
        longest = int(lengths.max(initial=0))
        k = max(longest, 1) if k is None else _checked_k(k)
        width = min(k, longest)
        later = self._queries.later(user_ids, recent)
        item_ids: list[list[Any]] = []
        scores = np.full((len(rows), width), -np.inf)
        fallback = np.zeros(len(rows), dtype=bool)
        with evaluation_mode(self.retriever, self.ranker):
            for start in range(0, len(rows), self.batch_size):
                block = slice(start, start + self.batch_size)
                own = {name: value[block] for name, value in (features or {}).items()}
                past = self._queries.latest(rows[block], later, block)
                query = self._queries.query(rows[block], past, time, own).to(self.device)
                fallback[block] = ColdStartChannel.cold(query).cpu().numpy()
                items = torch.from_numpy(given.gather(block, None)).to(self.device)
                shown = np.zeros((len(query), width), dtype=np.int64)
                if items.shape[1]:  # else nobody of the block has a candidate that is known
                    stage1 = self.channel.score(query, items).masked_fill(items == 0, -torch.inf)
                    found = ranked(items, stage1)
                    final, _ = self._final_scores(query, found, explain=False)
                    lists = ranked(found.items, final).top(width)
                    shown[:, : lists.items.shape[1]] = lists.items.cpu().numpy()
                    scores[block, : lists.items.shape[1]] = lists.scores.cpu().numpy()
                item_ids += external(self.tables.items, shown)
        counts = np.minimum(lengths, width)
        for place, unknown in given.unknown.items():
            first = min(int(given.lengths[place]), width)
            item_ids[place][first : counts[place]] = unknown[: counts[place] - first]
            scores[place, first : counts[place]] = np.nan
        return Recommendations(
            user_ids=user_ids,
            item_ids=item_ids,
            scores=scores,
            counts=counts,
            requested=k,
            served_by=self.serve_by.value,
            fallback=fallback,
            ignored_history=np.zeros(len(rows), dtype=np.int64),
        )

    @torch.no_grad()
    def predict(
        self,
        users: Ids,
        items: Ids | None = None,
        *,
        recent: Mapping[Any, Sequence[Any]] | None = None,
        time: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> Predictions:
        """What the ranker says of each (user, item) pair, as a probability where it is one.

        Args:
            users: external user ids [P]; or, without ``items``, P pairs (user id, item id).
            items: external item ids [P].
            recent: events after the export; as in ``recommend``.
            time: of the request; as in ``recommend``.
            features: request features by name, each [P, ...].

        Raises:
            ValueError: users and items of different number, or ids of the wrong type.
        """
        if items is None:
            if hasattr(users, "columns"):
                raise ValueError("predict: got a table: pass its columns, predict(table['user_id'], table['item_id'])")
            pairs = list(users)
            if any(isinstance(pair, str | bytes) or len(np.atleast_1d(pair)) != 2 for pair in pairs):
                raise ValueError("predict: need pairs (user id, item id), or users and items")
            users, items = [user for user, _ in pairs], [item for _, item in pairs]
        user_ids, user_rows = numbered(self.tables.users, users)
        item_ids, item_rows = numbered(self.tables.items, items)
        if len(user_ids) != len(item_ids):
            raise ValueError(f"predict: {len(user_ids)} users, but {len(item_ids)} items")
        values = np.empty(len(user_rows))
        later = self._queries.later(user_ids, recent)
        # Pairs of one user share the query of their first pair, unless each pair brings its own request. Unknown
        # users share a row, but not what they did since.
        _, first, inverse = np.unique(user_rows, return_index=True, return_inverse=True)
        apart = (user_rows == UNKNOWN) & (recent is not None) | bool(features)
        keys = np.where(apart, np.arange(len(user_rows)), first[inverse])
        with evaluation_mode(self.retriever, self.ranker):
            for block in pair_blocks(keys, item_rows, self.batch_size):
                own = {name: value[block.queries] for name, value in (features or {}).items()}
                rows = user_rows[block.queries]
                past = self._queries.latest(rows, later, block.queries)
                query = self._queries.query(rows, past, time, own).to(self.device)
                answer = self._answer(query, torch.from_numpy(block.items).to(self.device))
                values[block.pairs] = answer.double().cpu().numpy()[block.owner, block.column]
        kind: PredictionKind = "probability" if self.calibration.n_labels else "logit"
        if self.ranker is None:
            kind = "score"
        known = user_rows > UNKNOWN, item_rows > UNKNOWN
        return Predictions(user_ids, item_ids, values, kind, *known)

    def _answer(self, query: Query, items: Tensor) -> Tensor:
        """Probabilities, logits or scores [B, N] of item rows [B, N]."""
        if self.ranker is None:
            return self.channel.channel.score(query, items)
        return self.calibration(self.ranker(query, items))

    @torch.no_grad()
    def similar_items(self, items: Ids, k: int = 10) -> Neighbours:
        """The k items whose vectors have the greatest cosine with each item's; never the item itself.

        The vectors are the retriever's; they are encoded at the first call and kept.

        Raises:
            ValueError: the retriever counts clicks and has no vectors.
        """
        k = self._checked_alike(k)
        if self._item_cosines is None:
            rows = self.index.items.cpu()
            self._item_cosines = Cosines(item_vectors(self.retriever, rows, self.device), rows)
        return _neighbours(self.tables.items, items, k, self._item_cosines)

    @torch.no_grad()
    def similar_users(self, users: Ids, k: int = 10) -> Neighbours:
        """The k users whose query vectors, as of the export, have the greatest cosine with each user's.

        Users without a history have no vector of their own: they are nobody's neighbours and have none.
        The vectors are encoded at the first call and kept: [U, D].

        Raises:
            ValueError: as ``similar_items``.
        """
        k = self._checked_alike(k)
        if self._user_cosines is None:
            rows = users_with_history(self.tables)
            vectors = user_vectors(self._queries, self.retriever, rows, self.device, self.batch_size)
            self._user_cosines = Cosines(vectors, torch.from_numpy(rows))
        return _neighbours(self.tables.users, users, k, self._user_cosines)

    def _checked_alike(self, k: int) -> int:
        if isinstance(self.retriever, PopularityRetriever):
            raise ValueError("the popularity retriever has no vectors: nothing is more alike than anything else")
        return _checked_k(k)


def _checked_k(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
    return int(k)


def _neighbours(vocabulary: Vocabulary, ids: Ids, k: int, cosines: Cosines) -> Neighbours:
    asked, rows = numbered(vocabulary, ids)
    found = cosines.nearest(torch.from_numpy(rows), k)
    return Neighbours(
        asked,
        external(vocabulary, found.items.numpy()),
        found.scores.double().numpy(),
        cosines.has(torch.from_numpy(rows)).numpy(),
    )
