"""Lists of real users: what they had, what stage 1 found, what was served, and what they then took.

Histories are as of the judged event, not the latest ones: these are queries of the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.dataset import Dataset
from corral.data.summary import time_text
from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel
from corral.evaluation.metrics import ranked
from corral.evaluation.mixture import Mixture, final_scores
from corral.evaluation.result import Evaluation
from corral.ranking.ranker import Ranker
from corral.rar.ranker import RarRanker
from corral.report.item_names import Item, ItemNames
from corral.report.matching import Matched, matched
from corral.retrieval.channels import RecallChannel
from corral.retrieval.evaluation_mode import evaluation_mode

TOP = 10


@dataclass(frozen=True)
class Listed:
    """An item in a list.

    Attributes:
        item: which.
        place: in this list, from 1.
        retriever_place: in stage 1's list, from 1.
        retriever_score: of stage 1.
        logit: of stage 2; None where there is none.
        final_score: what the served list is sorted by.
        hit: the user took it.
    """

    item: Item
    place: int
    retriever_place: int
    retriever_score: float
    logit: float | None
    final_score: float
    hit: bool


@dataclass(frozen=True)
class Wanted:
    """An item that the user then took, and its place in each list (0 = not in it)."""

    item: Item
    retriever_place: int
    served_place: int


@dataclass(frozen=True)
class Example:
    """One query of the evaluation.

    Attributes:
        user: external id.
        reason: why it is shown.
        time: of the query, as text.
        history: the latest items before it, oldest first.
        history_length: how many the models saw.
        candidates: the first ones of stage 1.
        served: the first ones of the list that is served.
        targets: what the user then took.
        matched: of the first item of the served list, where the ranker is RAR's.
    """

    user: str
    reason: str
    time: str
    history: Sequence[Item]
    history_length: int
    candidates: Sequence[Listed]
    served: Sequence[Listed]
    targets: Sequence[Wanted]
    matched: Matched | None = None


def choose(evaluation: Evaluation, n: int) -> list[tuple[int, str]]:
    """At most n queries (positions) with the reason: by history length, then by what the stages did.

    The same evaluation always gives the same ones.
    """
    history, judged = evaluation.queries["history"], evaluation.targets
    recalled, candidates, served = (judged[name] for name in ("retriever", "candidates", evaluation.served.value))
    order = np.argsort(history, kind="stable")
    order = order[history[order] > 0]
    chosen: list[tuple[int, str]] = []
    for share, words in (
        (0.5, "a history of middling length"),
        (0.1, "a short history"),
        (0.9, "a long history"),
    ):
        if len(order):
            chosen.append((int(order[int(len(order) * share)]), words))

    def of_targets(mask: np.ndarray, by: np.ndarray, words: str) -> None:
        rows = np.flatnonzero(mask)
        if len(rows):
            chosen.append((int(judged["query"][rows[np.argmax(by[rows])]]), words))

    in_list = (served > 0) & (served <= TOP)
    of_targets(in_list & (candidates > TOP), candidates, "the second stage lifted what the user took the most")
    of_targets((candidates > 0) & (candidates <= TOP) & ~in_list, served, "the second stage lost what the user took")
    found = np.zeros(len(evaluation), dtype=bool)
    found[judged["query"][candidates > 0]] = True
    missed = order[~found[order]]
    if len(missed):
        chosen.append((int(missed[len(missed) // 2]), "stage 1 missed all that the user took"))
    of_targets(in_list, -(served + 0.001 * recalled), "what the user took stands high in the list")
    once: dict[int, str] = {}
    for query, words in chosen:
        once.setdefault(query, words)
    return list(once.items())[:n]


def example_lists(
    dataset: Dataset,
    targets: Targets,
    evaluation: Evaluation,
    channel: RecallChannel,
    ranker: Ranker | None,
    mixture: Mixture | None,
    *,
    n: int = 6,
    shown: int = TOP,
    device: torch.device | str = "cpu",
) -> list[Example]:
    """Asks the trained stages again for some queries of the evaluation.

    Args:
        dataset: gives ids and titles.
        targets: the ones that were judged.
        evaluation: of them.
        channel: stage 1.
        ranker: stage 2.
        mixture: of both scores.
        n: at most so many examples.
        shown: length of histories and lists.
        device: where both stages live.

    Raises:
        ValueError: the evaluation is of other targets.
    """
    same = len(targets) == len(evaluation) and np.array_equal(targets.event, evaluation.queries["event"])
    if not same:
        raise ValueError("the evaluation is not of this data and split; train the run again")
    if n < 1:
        return []
    names, found = ItemNames(dataset.items, dataset.item_features), []
    funnel = Funnel(channel, ranker, evaluation.num_candidates)
    for query, reason in choose(evaluation, n):
        one = targets.only(np.array([query]))
        scored = next(iter(funnel.run(one, evaluation.num_candidates, 1, device)))
        candidates, logits = scored.candidates, scored.logits
        final = final_scores(evaluation.served, candidates, logits, mixture)
        history = scored.query.history[0].tolist()
        history = [row for row in history if row]
        mask = evaluation.targets["query"] == query
        wanted = evaluation.targets["item"][mask]
        both = _listed(names, candidates, logits, final, set(wanted.tolist()))
        places = (evaluation.targets[name][mask].tolist() for name in ("candidates", evaluation.served.value))
        found.append(
            Example(
                user=str(dataset.users.external([int(targets.user[query])])[0]),
                reason=reason,
                time=time_text(int(targets.time[query]), dataset.header.time_unit),
                history=[names.item(row) for row in history[-shown:]],
                history_length=len(history),
                candidates=both[0][:shown],
                served=both[1][:shown],
                targets=[
                    Wanted(names.item(int(row)), first, last) for row, first, last in zip(wanted, *places, strict=True)
                ],
                matched=_matched(ranker, scored.query, candidates, final, dataset, names),
            )
        )
    return found


def _matched(
    ranker: Ranker | None, query: Query, candidates: Candidates, final: Tensor, dataset: Dataset, names: ItemNames
) -> Matched | None:
    """RAR's evidence for the first item of the served list."""
    first = int(ranked(candidates.items, final).items[0, 0])
    if not isinstance(ranker, RarRanker) or first == 0:
        return None

    rows = torch.full((1, 1), first, device=query.user.device)
    with torch.no_grad(), evaluation_mode(ranker):
        enriched = ranker.enriched(query, rows)
    return matched(
        enriched,
        names.item(first).name,
        lambda row: str(dataset.users.external([row])[0]),
        lambda row: names.item(row).name,
    )


def _listed(
    names: ItemNames, candidates: Candidates, logits: Tensor | None, final: Tensor, wanted: set[int]
) -> tuple[list[Listed], list[Listed]]:
    """Stage 1's list and the served one."""
    rows = [row for row in candidates.items[0].tolist() if row]
    first = {row: place for place, row in enumerate(rows)}
    order = [row for row in ranked(candidates.items, final).items[0].tolist() if row]

    def entry(row: int, place: int) -> Listed:
        column = first[row]
        return Listed(
            item=names.item(row),
            place=place,
            retriever_place=column + 1,
            retriever_score=float(candidates.scores[0, column]),
            logit=None if logits is None else float(logits[0, column]),
            final_score=float(final[0, column]),
            hit=row in wanted,
        )

    return [entry(row, place) for place, row in enumerate(rows, 1)], [
        entry(row, place) for place, row in enumerate(order, 1)
    ]
