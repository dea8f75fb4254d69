"""Requests for lists, answered together: those that differ in nothing but users, histories and k share a call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from corral.serving.explanation import Explanation
from corral.serving.http.answers import ClosestItem, Explained, RecommendAnswer, RecommendedItem, RecommendedList
from corral.serving.http.bodies import MOST_HISTORY, RecommendBody, Slate
from corral.serving.http.live_events import LiveEvents
from corral.serving.http.metrics import Metrics
from corral.serving.http.served_bundle import LoadedBundle
from corral.serving.recommendations import Recommendations
from corral.serving.slate_rules import SlateRules


@dataclass(frozen=True)
class RecommendJob:
    """A checked request, and the bundle it was checked against."""

    bundle: LoadedBundle
    body: RecommendBody

    def group(self) -> Hashable:
        """What requests that share a call have in common.

        k counts only where it is larger than the number of candidates: then the ranker sees more of them; and where
        there are rules for the list as a whole.
        """
        body = self.body
        slate = None if body.slate is None else (body.k, body.slate.model_dump_json())
        lists = tuple(None if ids is None else tuple(ids) for ids in (body.allow, body.deny))
        wide = max(body.k, self.bundle.recommender.num_candidates)
        return id(self.bundle), wide, body.filter_seen, lists, body.time, slate, body.explain


def recommend_batch(jobs: Sequence[RecommendJob], events: LiveEvents, metrics: Metrics) -> list[RecommendAnswer]:
    """The answers to requests, in their order.

    Args:
        jobs: of one bundle or several.
        events: what users did since the export.
        metrics: where sizes and times are noted.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        groups[job.group()].append(place)
    answers: dict[int, RecommendAnswer] = {}
    for places in groups.values():
        together = [jobs[place] for place in places]
        answers |= dict(zip(places, _answer(together, events, metrics), strict=True))
    return [answers[place] for place in range(len(jobs))]


def _answer(jobs: Sequence[RecommendJob], events: LiveEvents, metrics: Metrics) -> list[RecommendAnswer]:
    bundle, body = jobs[0].bundle, jobs[0].body
    recommender = bundle.recommender
    asked = [user for job in jobs for user in job.body.users]
    metrics.batches.observe(len(asked))
    with metrics.stage("live_events"):
        ids = {user.user_id: None for user in asked if user.user_id is not None}
        recent = events.since(list(ids), recommender.tables.histories.as_of, MOST_HISTORY)
    # Nothing is trained here: torch need not count writes to tensors.
    with metrics.stage("recommend"), torch.inference_mode():
        found = recommender.recommend(
            [user.user_id for user in asked],
            max(job.body.k for job in jobs),
            filter_seen=body.filter_seen,
            allow=body.allow,
            deny=body.deny,
            history=[user.history for user in asked],
            recent=recent,
            time=body.time,
            features=bundle.features.tensors([user.features for user in asked]),
            slate=_rules(body.slate),
            explain=body.explain,
        )
    with metrics.stage("answer"):
        answers, first = [], 0
        for job in jobs:
            lists = [_list(bundle, found, first + place, job.body.k) for place in range(len(job.body.users))]
            answers.append(RecommendAnswer(lists=lists, served_by=found.served_by, bundle=bundle.version))
            first += len(lists)
    return answers


def _rules(slate: Slate | None) -> SlateRules | None:
    if slate is None:
        return None
    at_most = None if slate.at_most is None else (slate.at_most.feature, slate.at_most.items)
    return SlateRules(slate.diversity, at_most, slate.min_new, slate.new)


def _list(bundle: LoadedBundle, found: Recommendations, place: int, k: int) -> RecommendedList:
    count = min(k, int(found.counts[place]))
    ids, scores = found.item_ids[place][:count], found.scores[place, :count].tolist()
    # Not validated: they are our own, and there are many.
    items = [RecommendedItem.model_construct(item_id=id_, score=score) for id_, score in zip(ids, scores, strict=True)]
    if found.explanation is not None:
        for column, item in enumerate(items):
            item.explained = _explained(bundle, found, found.explanation, place, column)
    return RecommendedList.model_construct(
        user_id=found.user_ids[place],
        items=items,
        fallback=bool(found.fallback[place]),
        ignored_history=int(found.ignored_history[place]),
    )


def _explained(
    bundle: LoadedBundle, found: Recommendations, explanation: Explanation, place: int, column: int
) -> Explained:
    assert found.closest_ids is not None
    logits, ranks = explanation.ranker_logits, explanation.ranker_ranks
    closest = zip(found.closest_ids[place][column], explanation.cosines[place, column].tolist(), strict=True)
    return Explained(
        channel=bundle.recommender.popularity.name if found.fallback[place] else "retriever",
        retriever_score=float(explanation.retriever_scores[place, column]),
        retriever_rank=int(explanation.retriever_ranks[place, column]),
        ranker_logit=None if logits is None else float(logits[place, column]),
        ranker_rank=None if ranks is None else int(ranks[place, column]),
        closest_in_history=[ClosestItem(item_id=id_, cosine=cosine) for id_, cosine in closest if id_ is not None],
    )
