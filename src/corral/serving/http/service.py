"""Service: what the endpoints do. One thread computes, one writes events; the event loop only waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from corral.data.vocabulary import UNKNOWN
from corral.retrieval.faiss_index import search_with_one_thread
from corral.serving.http import checks
from corral.serving.http.answers import (
    BundleAnswer,
    EventsAnswer,
    Neighbour,
    NeighbourList,
    PredictAnswer,
    Prediction,
    RecommendAnswer,
    SimilarAnswer,
)
from corral.serving.http.bodies import MOST_HISTORY, EventsBody, PredictBody, RecommendBody, SimilarBody
from corral.serving.http.impression_log import ImpressionLog, ServedList
from corral.serving.http.limits import Limits
from corral.serving.http.live_events import Event, LiveEvents
from corral.serving.http.metrics import Metrics
from corral.serving.http.micro_batches import BusyError, MicroBatches
from corral.serving.http.recommend_batch import RecommendJob, recommend_batch
from corral.serving.http.request_log import LOGGER
from corral.serving.http.served_bundle import LoadedBundle, ServedBundle
from corral.serving.http.settled_memory import is_settled, settle_memory
from corral.serving.recommendations import Neighbours

Answer = TypeVar("Answer")
# Rows of events in one commit.
MOST_COMMITTED = 10_000


class Service:
    """Answers checked bodies.

    Args:
        bundles: what answers.
        events: where live events are kept.
        limits: of time and of waiting.
        metrics: where everything is counted.
        impressions: where served lists are logged; None: nowhere.
    """

    def __init__(
        self,
        bundles: ServedBundle,
        events: LiveEvents,
        limits: Limits,
        metrics: Metrics,
        impressions: ImpressionLog | None = None,
    ) -> None:
        self.bundles, self.events, self.limits, self.metrics = bundles, events, limits, metrics
        self.impressions = impressions
        # Of one thread: models are not safe to share, and one core works best without another thread's.
        self._models = ThreadPoolExecutor(1, "models", initializer=search_with_one_thread)
        self._writer = ThreadPoolExecutor(1, "events")
        self._recommends = MicroBatches[RecommendJob, RecommendAnswer](
            partial(recommend_batch, events=events, metrics=metrics),
            self._models,
            most=limits.batch_users,
            gather_seconds=limits.gather_seconds,
            most_waiting=limits.waiting_users,
        )
        self._calls = MicroBatches[Callable[[], Any], Any](
            lambda calls: [call() for call in calls],
            self._models,
            most=1,
            gather_seconds=0.0,
            most_waiting=limits.waiting_users,
        )
        self._appends = MicroBatches[Sequence[Event], None](
            self._append,
            self._writer,
            most=MOST_COMMITTED,
            gather_seconds=0.0,
            most_waiting=10 * MOST_COMMITTED,
        )
        # A thread of its own: a slow disk may not keep events waiting.
        self._logger = ThreadPoolExecutor(1, "impressions")
        self._shown = MicroBatches[Sequence[ServedList], None](
            self._log_lists, self._logger, most=MOST_COMMITTED, gather_seconds=0.0, most_waiting=10 * MOST_COMMITTED
        )
        self._logging: set[asyncio.Task[None]] = set()
        self._note(bundles.current)

    async def recommend(self, body: RecommendBody) -> RecommendAnswer:
        """Lists, made together with those of other requests."""
        bundle = self.bundles.current
        checks.check_recommend(bundle, body)
        answer = await self._within(self._recommends.ask(RecommendJob(bundle, body), len(body.users)))
        if self.impressions is not None:
            time = self.impressions.now() if body.time is None else body.time
            task = asyncio.create_task(self._note_shown(answer, time))
            self._logging.add(task)
            task.add_done_callback(self._logging.discard)
        return answer

    async def predict(self, body: PredictBody) -> PredictAnswer:
        """What the ranker says of pairs."""
        bundle = self.bundles.current
        checks.check_predict(bundle, body)
        size = 1 + len(body.pairs) // bundle.recommender.num_candidates
        return await self.call(partial(_predict, bundle, body, self.events), size)

    async def similar_items(self, body: SimilarBody) -> SimilarAnswer:
        """Items like others."""
        bundle = self.bundles.current
        checks.check_similar(bundle.recommender.tables.items, body, "item")
        return await self.call(partial(_similar, bundle, bundle.recommender.similar_items, body), len(body.ids))

    async def similar_users(self, body: SimilarBody) -> SimilarAnswer:
        """Users like others, as of the export."""
        bundle = self.bundles.current
        checks.check_similar(bundle.recommender.tables.users, body, "user")
        return await self.call(partial(_similar, bundle, bundle.recommender.similar_users, body), len(body.ids))

    async def append(self, body: EventsBody) -> EventsAnswer:
        """Keeps events; they are used by every answer that is begun after this one."""
        bundle = self.bundles.current
        checks.check_events(bundle, body)
        events = [Event(event.user_id, event.item_id, event.time) for event in body.events]
        await self._within(self._appends.ask(events, len(events)))
        self.metrics.events.inc(len(events))
        tables = bundle.recommender.tables
        known = tables.items.rows([event.item for event in events]) > UNKNOWN
        used = sum(bool(one) and event.time > tables.histories.as_of for one, event in zip(known, events, strict=True))
        return EventsAnswer(stored=len(events), used=used)

    async def reload(self) -> BundleAnswer:
        """Serves the bundle that is on the disk now; the old one answers until then, and if this fails."""
        try:
            bundle = await asyncio.to_thread(self.bundles.reload)
        except Exception:
            self.metrics.reloads.labels("refused").inc()
            raise
        self.metrics.reloads.labels("served").inc()
        self._note(bundle)
        if is_settled():
            await asyncio.to_thread(settle_memory)
        return self.bundle()

    def bundle(self) -> BundleAnswer:
        """What is served."""
        bundle, recommender = self.bundles.current, self.bundles.current.recommender
        return BundleAnswer(
            version=bundle.version,
            corral=bundle.manifest.corral,
            data=dict(bundle.manifest.data),
            loaded=bundle.loaded.isoformat(timespec="seconds"),
            users=len(recommender.tables.users.ids),
            items=len(recommender.tables.items.ids),
            user_ids=recommender.tables.users.id_type,
            item_ids=recommender.tables.items.id_type,
            latest_event=recommender.tables.histories.as_of,
            served_by=recommender.serve_by.value,
            num_candidates=recommender.num_candidates,
            history_length=recommender.history_length,
            repeats=recommender.repeats,
            request_features=bundle.features.names,
            index=dict(recommender.index.description),
        )

    async def check(self) -> None:
        """Raises unless requests can be answered."""
        await self._within(asyncio.to_thread(self.events.check))

    async def logged(self) -> None:
        """Returns when all lists that were answered are logged, or lost."""
        await asyncio.gather(*self._logging, return_exceptions=True)

    def close(self) -> None:
        """Ends the threads, when they have finished what they do."""
        self._models.shutdown(cancel_futures=True)
        self._writer.shutdown()
        self._logger.shutdown()

    def _append(self, jobs: Sequence[Sequence[Event]]) -> list[None]:
        self.events.append([event for events in jobs for event in events])
        return [None] * len(jobs)

    async def _note_shown(self, answer: RecommendAnswer, time: int) -> None:
        """Logs the lists of an answer; nobody waits for it, and what cannot be logged is counted."""
        lists = [
            ServedList(one.user_id, time, [item.item_id for item in one.items], answer.bundle)
            for one in answer.lists
            if one.user_id is not None and one.items
        ]
        try:
            if lists:
                await self._shown.ask(lists, len(lists))
                self.metrics.impressions.labels("logged").inc(len(lists))
        except (BusyError, OSError) as error:
            self.metrics.impressions.labels("lost").inc(len(lists))
            LOGGER.error("served lists were not logged: %s", type(error).__name__)

    def _log_lists(self, jobs: Sequence[Sequence[ServedList]]) -> list[None]:
        assert self.impressions is not None
        self.impressions.write([one for lists in jobs for one in lists])
        return [None] * len(jobs)

    async def call(self, call: Callable[[], Answer], size: int) -> Answer:
        """What a call answers that asks the models, in their thread; ``size``: how many lists it is worth.

        Raises:
            BusyError, TimeoutError: there is no answer in time.
        """
        return await self._within(self._calls.ask(call, size))

    async def _within(self, answer: Awaitable[Answer]) -> Answer:
        async with asyncio.timeout(self.limits.seconds):
            return await answer

    def _note(self, bundle: LoadedBundle) -> None:
        self.metrics.serving(bundle.version, bundle.loaded.timestamp())


def _predict(bundle: LoadedBundle, body: PredictBody, events: LiveEvents) -> PredictAnswer:
    users = [pair.user_id for pair in body.pairs]
    as_of = bundle.recommender.tables.histories.as_of
    found = bundle.recommender.predict(
        users,
        [pair.item_id for pair in body.pairs],
        recent=events.since(list(dict.fromkeys(users)), as_of, MOST_HISTORY),
        time=body.time,
        features=bundle.features.tensors([pair.features for pair in body.pairs]),
    )
    predictions = [
        Prediction(
            user_id=pair.user_id, item_id=pair.item_id, value=value, known_user=known_user, known_item=known_item
        )
        for pair, value, known_user, known_item in zip(
            body.pairs, found.values.tolist(), found.known_users.tolist(), found.known_items.tolist(), strict=True
        )
    ]
    return PredictAnswer(predictions=predictions, kind=found.kind, bundle=bundle.version)


def _similar(
    bundle: LoadedBundle, search: Callable[[list[int | str], int], Neighbours], body: SimilarBody
) -> SimilarAnswer:
    found = search(body.ids, body.k)
    lists = [
        NeighbourList(
            id=asked,
            known=known,
            neighbours=[
                Neighbour(id=id_, cosine=cosine) for id_, cosine in zip(ids, cosines, strict=True) if id_ is not None
            ],
        )
        for asked, known, ids, cosines in zip(
            found.ids, found.known.tolist(), found.neighbour_ids, found.scores.tolist(), strict=True
        )
    ]
    return SimilarAnswer(lists=lists, bundle=bundle.version)
