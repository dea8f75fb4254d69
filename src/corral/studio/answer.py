"""Answer: one user's list, what either stage said of it, and how it changes when something is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corral.data.vocabulary import UNKNOWN
from corral.report.item_names import Item, ItemNames, feature_words
from corral.serving.http.bodies import MOST_HISTORY, Id
from corral.serving.http.checks import RefusedError
from corral.serving.http.live_events import LiveEvents
from corral.serving.http.served_bundle import LoadedBundle
from corral.serving.recommendations import Recommendations
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables
from corral.studio.consulted import Consulted, consulted, look_alike_rows
from corral.studio.entries import Entry, candidate_rows, entries
from corral.studio.masked_ranker import Mask, MaskedRanker
from corral.studio.question import Question
from corral.studio.what_if import what_if

# Length of the final list that is shown.
SHOWN = 10


class UnknownUserError(RefusedError):
    """Nothing is known of the user, and no history was given."""


@dataclass(frozen=True)
class Known:
    """An item of the history.

    Attributes:
        item: which.
        features: what the data says of it.
        times: how often it stands there.
        left_out: the models were not told.
    """

    item: Item
    features: Mapping[str, str]
    times: int
    left_out: bool


@dataclass(frozen=True)
class Answer:
    """What one bundle says.

    Attributes:
        version: of the bundle.
        served_by: whose score sorts the final list.
        features: what the data says of the user.
        history: distinct items, the latest first.
        kept: the ids that the models were told, oldest first.
        fallback: nothing is known: stage 1 gave popular items.
        ignored: given items that the catalogue lacks.
        num_candidates: items that the ranker was asked about, at most.
        changed: something differs from what is served.
        entries: all candidates in their final order.
        dropped: items of the unchanged list's first ``SHOWN`` that are no candidates any more, by their place there.
        consulted: about one of the items; None where the ranker is not RAR's, or there is no item.
    """

    version: str
    served_by: str
    features: Mapping[str, str]
    history: Sequence[Known]
    kept: Sequence[Id]
    fallback: bool
    ignored: int
    num_candidates: int
    changed: bool
    entries: Sequence[Entry]
    dropped: Mapping[int, Item]
    consulted: Consulted | None


def answer(bundle: LoadedBundle, question: Question, events: LiveEvents) -> Answer:
    """Asks the models, in the thread of their own.

    Args:
        bundle: answers, as if all features of the request were missing.
        question: whose list, and what is changed.
        events: what users did since the export.

    Raises:
        RefusedError: the question names what is not there.
    """
    recommender, user = bundle.modules or bundle.recommender, question.user_id
    tables, ranker = recommender.tables, recommender.ranker
    recent = {} if user is None else events.since([user], tables.histories.as_of, MOST_HISTORY)
    features = bundle.features.tensors([dict.fromkeys(bundle.features.names)])
    given: list[Sequence[Id] | None] = [question.history]
    query = recommender.query([user], history=given, recent=recent, features=features)
    rows = [row for row in query.history[0].tolist() if row]
    if user is not None and int(query.user[0]) == UNKNOWN and not rows:
        raise UnknownUserError(f"nobody is known as {str(user)[:100]}")

    without = _chosen(tables.items.rows(question.without), rows, "an item to leave out is not in the history")
    kept = [row for row in rows if row not in without]
    if without and not kept:
        raise RefusedError("without its last item there is no history left: leave one in")
    told: list[Sequence[Id] | None] = [tables.items.external(kept)] if without else given
    alike = look_alike_rows(ranker, query)
    mask = Mask(look_alikes=_chosen(tables.users.rows(question.unlike), alike, "a user to leave out is no look-alike"))
    count = question.num_candidates or recommender.num_candidates
    changed = bool(without or mask.look_alikes) or count != recommender.num_candidates

    def candidates_of(asked: TwoStageRecommender, history: Sequence[Sequence[Id] | None]) -> Recommendations:
        return asked.recommend(
            [user], asked.num_candidates, history=history, recent=recent, features=features, explain=True
        )

    masked = None if ranker is None else MaskedRanker(ranker, mask)
    served = found = candidates_of(recommender, given)
    if changed:
        found = candidates_of(recommender.varied(ranker=masked, num_candidates=count), told)
    query = recommender.query([user], history=told, recent=recent, features=features)
    candidates = candidate_rows(recommender, found)
    reasons = None if ranker is None else what_if(ranker, query, candidates, mask)
    listed = candidates[0].tolist()
    asked = UNKNOWN if question.item is None else int(tables.items.rows([question.item])[0])
    focus = asked if asked in listed else next(iter(listed), None)
    return Answer(
        version=bundle.version,
        served_by=found.served_by,
        features=feature_words(tables.user_features, int(query.user[0])),
        history=_history(tables, rows, without),
        kept=tables.items.external(kept),
        fallback=bool(found.fallback[0]),
        ignored=int(served.ignored_history[0]),
        num_candidates=count,
        changed=changed,
        entries=entries(recommender, found, served, reasons),
        dropped=_dropped(tables, served, listed),
        consulted=None if focus is None else consulted(recommender, query, focus, mask),
    )


def _chosen(wanted: np.ndarray, there: Collection[int], refusal: str) -> frozenset[int]:
    """Rows that a person wants left out of those that are there."""
    chosen = frozenset(wanted.tolist())
    if not chosen <= set(there):
        raise RefusedError(refusal)
    return chosen


def _history(tables: ServingTables, rows: Sequence[int], without: Collection[int]) -> list[Known]:
    names, times = ItemNames(tables.items, tables.item_features), Counter(rows)
    return [
        Known(names.item(row), feature_words(tables.item_features, row), times[row], row in without)
        for row in dict.fromkeys(reversed(rows))
    ]


def _dropped(tables: ServingTables, served: Recommendations, listed: Collection[int]) -> dict[int, Item]:
    names = ItemNames(tables.items, tables.item_features)
    first = tables.items.rows([id_ for id_ in served.item_ids[0][:SHOWN] if id_ is not None]).tolist()
    return {place: names.item(row) for place, row in enumerate(first, 1) if row not in listed}
