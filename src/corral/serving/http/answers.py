"""Answers of the service, as its OpenAPI document describes them."""

from __future__ import annotations

from pydantic import BaseModel

from corral.serving.http.live_events import Id
from corral.serving.recommendations import PredictionKind, ServedBy


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class ClosestItem(BaseModel):
    """An item of the user's history, and the cosine of its retriever vector with the recommended item's."""

    item_id: Id
    cosine: float


class Explained(BaseModel):
    """What each stage said of an item; ranks count from 1 among stage 1's candidates."""

    channel: str
    retriever_score: float | None
    retriever_rank: int
    ranker_logit: float | None
    ranker_rank: int | None
    closest_in_history: list[ClosestItem]


class RecommendedItem(BaseModel):
    """One place of a list."""

    item_id: Id
    score: float | None
    explained: Explained | None = None


class RecommendedList(BaseModel):
    """One user's list, best first.

    ``fallback``: nothing is known of the user, so these are popular items. ``ignored_history``: items of the
    history in the request that the catalogue lacks.
    """

    user_id: Id | None
    items: list[RecommendedItem]
    fallback: bool
    ignored_history: int


class RecommendAnswer(BaseModel):
    """Lists in the order of the request's users; shorter than k only where the filters leave fewer items."""

    lists: list[RecommendedList]
    served_by: ServedBy
    bundle: str


class Prediction(BaseModel):
    """The ranker's word on a pair; an unknown user or item is answered as the unknown one."""

    user_id: Id
    item_id: Id
    value: float | None
    known_user: bool
    known_item: bool


class PredictAnswer(BaseModel):
    """Predictions in the order of the pairs; ``kind`` says what the values are."""

    predictions: list[Prediction]
    kind: PredictionKind
    bundle: str


class Neighbour(BaseModel):
    """A similar item, or user, and the cosine of both vectors."""

    id: Id
    cosine: float


class NeighbourList(BaseModel):
    """Most similar first; empty for an unknown id."""

    id: Id
    known: bool
    neighbours: list[Neighbour]


class SimilarAnswer(BaseModel):
    """Lists in the order of the request's ids."""

    lists: list[NeighbourList]
    bundle: str


class EventsAnswer(BaseModel):
    """The events are kept, whatever happens to the server now; one that was sent before counts once.

    ``used`` of them change answers from now on: the others are no later than the bundle's own events, or of
    items that it does not know, which a later bundle may.
    """

    stored: int
    used: int


class BundleAnswer(BaseModel):
    """What is served.

    ``index``: how the catalogue is searched; ``recall`` of an approximate one is the share of the exact lists of
    ``recall_at`` items that it found for ``recall_queries`` users when it was built.
    """

    version: str
    corral: str
    data: dict[str, str]
    loaded: str
    users: int
    items: int
    user_ids: str
    item_ids: str
    latest_event: int
    served_by: ServedBy
    num_candidates: int
    history_length: int
    repeats: bool
    request_features: list[str]
    index: dict[str, str | int | float]


class StateAnswer(BaseModel):
    """Whether the service is well."""

    state: str
