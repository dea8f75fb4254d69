"""What the bundle must say of a checked body before it joins a batch: types of ids, request features."""

from __future__ import annotations

from collections.abc import Iterable

from corral.data.time_check import FAR_ON
from corral.data.vocabulary import Vocabulary
from corral.serving.http.bodies import EventsBody, Id, PredictBody, RecommendBody, SimilarBody
from corral.serving.http.served_bundle import LoadedBundle
from corral.serving.slate_rules import bounded_column

# Since 1970, in the coarsest unit.
TEN_YEARS_OF_DAYS = 3652


class RefusedError(Exception):
    """A request that this bundle cannot answer; the text says what to do."""


def check_recommend(bundle: LoadedBundle, body: RecommendBody) -> None:
    """Raises RefusedError; likewise the functions below."""
    tables = bundle.recommender.tables
    _check_ids(tables.users, (user.user_id for user in body.users if user.user_id is not None), "user")
    new = None if body.slate is None else body.slate.new
    for ids in (body.allow, body.deny, new, *(user.history for user in body.users)):
        _check_ids(tables.items, ids or (), "item")
    for user in body.users:
        _check_features(bundle, user.features)
    if body.slate is not None and body.slate.at_most is not None:
        try:
            bounded_column(tables.item_features, body.slate.at_most.feature)
        except ValueError as error:
            raise RefusedError(str(error)) from error


def check_predict(bundle: LoadedBundle, body: PredictBody) -> None:
    """As ``check_recommend``."""
    tables = bundle.recommender.tables
    _check_ids(tables.users, (pair.user_id for pair in body.pairs), "user")
    _check_ids(tables.items, (pair.item_id for pair in body.pairs), "item")
    for pair in body.pairs:
        _check_features(bundle, pair.features)


def check_similar(vocabulary: Vocabulary, body: SimilarBody, what: str) -> None:
    """As ``check_recommend``."""
    _check_ids(vocabulary, body.ids, what)


def check_events(bundle: LoadedBundle, body: EventsBody) -> None:
    """As ``check_recommend``."""
    tables = bundle.recommender.tables
    _check_ids(tables.users, (event.user_id for event in body.events), "user")
    _check_ids(tables.items, (event.item_id for event in body.events), "item")
    latest, far = tables.histories.as_of, max(event.time for event in body.events)
    # Smaller numbers may count from any start.
    if latest >= TEN_YEARS_OF_DAYS and far > FAR_ON * latest:
        raise RefusedError(
            f"time {far}: the latest moment of this bundle is {latest}: send times in the unit of its data set "
            "(milliseconds in place of seconds?)"
        )


def _check_ids(vocabulary: Vocabulary, ids: Iterable[Id], what: str) -> None:
    number = vocabulary.id_type == "int64"
    if any(isinstance(one, int) is not number for one in ids):
        wanted, got = ("whole numbers", "a string") if number else ("strings", "a number")
        raise RefusedError(f"the {what} ids of this bundle are {wanted}, got {got}")


def _check_features(bundle: LoadedBundle, features: dict[str, float | None]) -> None:
    try:
        bundle.features.check(features)
    except ValueError as error:
        raise RefusedError(str(error)) from error
