"""Bodies of requests: strict types, every length bounded, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from corral.data.time_units import LATEST

MOST_USERS = 1_000
MOST_K = 1_000
MOST_ANSWERED = 50_000
MOST_HISTORY = 1_000
MOST_IDS = 10_000
MOST_EVENTS = 1_000
MOST_FEATURES = 100
MOST_FAULTS, MOST_CHARACTERS = 5, 200

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Id = Int64 | Annotated[str, Field(min_length=1, max_length=256)]
Features = Annotated[
    dict[Annotated[str, Field(max_length=100)], Annotated[float, Field(allow_inf_nan=False)] | None],
    Field(max_length=MOST_FEATURES),
]
K = Annotated[int, Field(ge=1, le=MOST_K, description="Length of the lists.")]
Moment = Annotated[int, Field(ge=0, le=LATEST)]
Time = Annotated[Moment, Field(description="In the data set's unit.")]
# The models know the latest moment of the bundle's own events where a request names none.
RequestTime = Annotated[
    Moment | None,
    Field(description="Of the request, in the data set's unit; by default just after the bundle's latest moment."),
]


class Body(BaseModel):
    """What all bodies share; a refusal never repeats what was sent."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class UserRequest(Body):
    """For whom a list is wanted."""

    user_id: Annotated[Id | None, Field(description="Null: somebody without an id.")] = None
    history: Annotated[
        list[Id] | None,
        Field(max_length=MOST_HISTORY, description="Item ids, oldest first, in place of what is known of the user."),
    ] = None
    features: Annotated[Features, Field(description="Of the request, by name; null is missing.")] = {}


class AtMost(Body):
    """A bound on items that are alike."""

    feature: Annotated[str, Field(min_length=1, max_length=100, description="A categorical item feature.")]
    items: Annotated[int, Field(ge=1, le=MOST_K, description="How many items of one value of it a list may hold.")]


class Slate(Body):
    """Rules for each list as a whole; they shorten no list while the catalogue has items that obey them."""

    diversity: Annotated[
        float,
        Field(ge=0, le=1, allow_inf_nan=False, description="Lambda of MMR: 0 the order of scores, 1 unlikeness alone."),
    ] = 0.0
    at_most: Annotated[AtMost | None, Field(description="By default no bound.")] = None
    min_new: Annotated[int, Field(ge=0, le=MOST_K, description="New items in each list, while there are so many.")] = 0
    new: Annotated[
        list[Id] | None,
        Field(max_length=MOST_IDS, description="The new items; by default those without a train event."),
    ] = None


class RecommendBody(Body):
    """Lists for one user or many."""

    users: Annotated[list[UserRequest], Field(min_length=1, max_length=MOST_USERS)]
    k: K = 10
    filter_seen: Annotated[
        bool | None, Field(description="Hide what the user had before; by default as the bundle was judged.")
    ] = None
    allow: Annotated[list[Id] | None, Field(max_length=MOST_IDS, description="Only these items.")] = None
    deny: Annotated[list[Id] | None, Field(max_length=MOST_IDS, description="Never these items.")] = None
    time: RequestTime = None
    slate: Annotated[Slate | None, Field(description="Diversity, at most so many of a kind, so many new items.")] = None
    explain: Annotated[bool, Field(description="Say what each stage said of each item.")] = False

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.users) * self.k > MOST_ANSWERED:
            raise ValueError(f"users times k must be at most {MOST_ANSWERED}: ask for fewer at a time")
        return self


class Pair(Body):
    """A user and an item."""

    user_id: Id
    item_id: Id
    features: Features = {}


class PredictBody(Body):
    """What does the ranker say of these pairs?"""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MOST_IDS)]
    time: RequestTime = None


class SimilarBody(Body):
    """The neighbours of these items, or users."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_USERS)]
    k: K = 10

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.ids) * self.k > MOST_ANSWERED:
            raise ValueError(f"ids times k must be at most {MOST_ANSWERED}: ask for fewer at a time")
        return self


class EventBody(Body):
    """A user had something to do with an item."""

    user_id: Id
    item_id: Id
    time: Time


class EventsBody(Body):
    """New events, of one user or many."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=MOST_EVENTS)]


def faults(errors: Sequence[Mapping[str, Any]]) -> str:
    """Where a body is wrong and how, in bounded length whatever was sent; of pydantic's errors."""
    lines = [f"{'.'.join(map(str, one['loc']))[:MOST_CHARACTERS]}: {one['msg'][:MOST_CHARACTERS]}" for one in errors]
    more = f"; and {len(lines) - MOST_FAULTS} more" if len(lines) > MOST_FAULTS else ""
    return "; ".join(lines[:MOST_FAULTS]) + more
